"""Random crops and augmentation of an image with its mask; every draw comes from the generator that is handed in."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

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


AUGMENTATIONS: dict[str, Callable[[Image, Mask, np.random.Generator], tuple[Image, Mask]]] = {
    "none": none,
    "flip": flip,
    "colour": colour,
    "appearance": flip,
}


ZOOM = 1.5
"""Largest factor of ``zoomed_crop``."""


def zoomed_crop(image: Image, mask: Mask, side: int, rng: np.random.Generator) -> tuple[Image, Mask]:
    """``crop`` of a side drawn between ``side`` / ZOOM and ``side`` · ZOOM, brought to ``side`` pixels: nuclei of other sizes."""
    drawn = round(side * ZOOM ** rng.uniform(-1, 1))
    image, mask = crop(image, mask, drawn, rng)
    return (image, mask) if drawn == side else (resized(image, (side, side)), resized(mask, (side, side)))


def resized(array: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """``array`` [H, W] or [H, W, C], of any dtype, at another height and width: bilinear without aliasing; a boolean mask by majority."""
    planes = torch.from_numpy(np.ascontiguousarray(np.atleast_3d(array).transpose(2, 0, 1)).astype(np.float32))[None]
    out = F.interpolate(planes, shape, mode="bilinear", antialias=True)[0].numpy().transpose(1, 2, 0)
    out = out >= 0.5 if array.dtype == bool else np.rint(out).astype(array.dtype)
    return out.reshape(*shape, *array.shape[2:])


def appearance(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Another stain, contrast and focus: [3, H, W] normalised -> the same shape, normalised roughly.

    In turn, each with a probability of its own: grey; inverted; the curve of ``_curved``; gain and offset, of the image and of each channel; blur; noise.
    Works in standard deviations, so that it means the same for every modality.
    """
    if rng.random() < 0.3:
        x = x.mean(0, keepdim=True).expand(3, -1, -1)
    if rng.random() < INVERTED:
        x = -x
    x = _curved(x, rng.uniform(-0.6, 0.6))
    gain, offset = np.exp(rng.uniform(-0.4, 0.4)), rng.uniform(-0.5, 0.5)
    gains, offsets = np.exp(rng.uniform(-0.2, 0.2, 3)), rng.uniform(-0.3, 0.3, 3)
    if torch.equal(x[0], x[1]) and torch.equal(x[0], x[2]):  # grey stays grey
        gains[:], offsets[:] = gains[0], offsets[0]
    x = (
        x * torch.from_numpy((gain * gains).astype(np.float32))[:, None, None]
        + torch.from_numpy((offset + offsets).astype(np.float32))[:, None, None]
    )
    if rng.random() < 0.3:
        x = _blurred(x, rng.uniform(0.3, 1.5))
    if rng.random() < 0.3:
        x = x + rng.uniform(0.02, 0.2) * torch.from_numpy(rng.standard_normal(x.shape, np.float32))
    return x


INVERTED = 0.3


def _curved(x: Tensor, bend: float) -> Tensor:
    """(exp(b·x) - 1) / b: stretches one side of the intensities and presses the other together, with slope 1 at the mean."""
    return x if abs(bend) < 1e-3 else torch.expm1(bend * x.clamp(-4, 4)) / bend


def _blurred(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of ``sigma`` px, [3, H, W]."""
    reach = int(np.ceil(3 * sigma))
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    weights = weights / weights.sum()
    y = F.pad(x[None], (reach,) * 4, mode="replicate").transpose(0, 1)
    return F.conv2d(F.conv2d(y, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1)).transpose(0, 1)[0]
