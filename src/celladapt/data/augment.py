"""Random crops and augmentation of an image with its mask; every draw comes from the generator that is handed in."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[Any]
"""[H, W, 3] uint8 or uint16"""
Mask = NDArray[np.bool_]
"""[H, W] or [H, W, C]"""


def crop(image: Image, mask: Mask, side: int, rng: np.random.Generator) -> tuple[Image, Mask]:
    """A random square of ``side`` pixels; an image smaller than that is first grown by reflection."""
    h, w = mask.shape[:2]
    down, right = max(0, side - h), max(0, side - w)
    if down or right:
        # "symmetric" is the reflection that may repeat, so that any size works.
        image = np.pad(image, ((0, down), (0, right), (0, 0)), mode="symmetric")
        mask = np.pad(mask, ((0, down), (0, right), (0, 0))[: mask.ndim], mode="symmetric")
        h, w = mask.shape[:2]
    top, left = int(rng.integers(h - side + 1)), int(rng.integers(w - side + 1))
    window = (slice(top, top + side), slice(left, left + side))
    return image[window], mask[window]


def none(image: Image, mask: Mask, rng: np.random.Generator) -> tuple[Image, Mask]:
    """As it is."""
    return image, mask


def flip(image: Image, mask: Mask, rng: np.random.Generator) -> tuple[Image, Mask]:
    """One of the eight symmetries of the square (of the four of the rectangle, where sides differ)."""
    turns = int(rng.integers(4)) if mask.shape[0] == mask.shape[1] else 2 * int(rng.integers(2))
    image, mask = np.rot90(image, turns), np.rot90(mask, turns)
    return (image[:, ::-1], mask[:, ::-1]) if rng.integers(2) else (image, mask)


def colour(image: Image, mask: Mask, rng: np.random.Generator, strength: float = 0.15) -> tuple[Image, Mask]:
    """``flip``, then a gain and an offset drawn for the image and, half as wide, for each channel.

    A grey image stays grey: its channels are equal, so they share one draw.
    """
    image, mask = flip(image, mask, rng)
    top = float(np.iinfo(image.dtype).max)
    gain, offset = rng.uniform(-strength, strength, 2)
    gains, offsets = rng.uniform(-strength / 2, strength / 2, (2, 3))
    channels = np.ascontiguousarray(image.transpose(2, 0, 1))  # numpy is several times faster over whole planes than over pixels of three
    if np.array_equal(channels[0], channels[1]) and np.array_equal(channels[0], channels[2]):
        gains, offsets = gains[:1], offsets[:1]
    x = channels * (1 + gain + gains).astype(np.float32)[:, None, None]
    x += (top * (offset + offsets)).astype(np.float32)[:, None, None]
    np.rint(x.clip(0, top, out=x), out=x)
    return x.astype(image.dtype).transpose(1, 2, 0), mask


AUGMENTATIONS: dict[str, Callable[[Image, Mask, np.random.Generator], tuple[Image, Mask]]] = {"none": none, "flip": flip, "colour": colour}
