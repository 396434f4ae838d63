"""What is no mask by its look: one whose edges have gone grey, or a picture (each grey would be taken for a nucleus of its own), or that of another image."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_WHITE, _BLACK = 248, 8
"""From and up to here JPEG may have moved what was 255 or 0."""
_FADED = 9
"""Of a mask with grey edges a tenth or more is white; of label images that go on to 255 what is labelled so is far less."""
FEW_VALUES, _MANY_VALUES = 8, 32
MOST_COMPARED = 50  # images
# What the masks of ten domains mark differs from the rest by 1 to 5 standard deviations, and what those of other images do by 0.1 at most.
_FAINT, _FEWEST = 0.3, 3
_SIDE = 512
SMALLEST = 32 * 32
"""px; fewer say nothing of what they are."""


def fades(values: NDArray[np.int32], bits: int) -> bool:
    """Whether (H, W) is a mask of black and white whose edges have gone grey, and no label image: many values between, or on both sides of both, few of whose pixels have a neighbour of the same value."""
    if bits == 16 and values.max(initial=0) == 65535:
        values = values // 257
    elif bits != 8:
        return False
    white = values >= _WHITE
    if not white.any():
        return False
    near_black, near_white = (values > 0) & (values < _BLACK), white & (values < 255)
    if near_black.any() and near_white.any() and _rarely_alike(values, near_black | near_white):
        return True
    between = (values > 0) & ~white
    if _FADED * np.count_nonzero(white) < np.count_nonzero(between) or np.unique(values[between]).size <= FEW_VALUES:
        return False
    return _rarely_alike(values, between)


def _rarely_alike(values: NDArray[np.int32], where: NDArray[np.bool_]) -> bool:
    """Whether fewer than half of the pixels have the value of their left neighbour."""
    alike = where[:, 1:] & (values[:, 1:] == values[:, :-1])
    return bool(2 * np.count_nonzero(alike) < np.count_nonzero(where[:, 1:]))


def varies(labels: NDArray[np.int32]) -> bool:
    """Whether (H, W) has many labels, and most of their pixels one of its own, other than to the left and above: as in a picture."""
    there = labels > 0
    alike = np.zeros(labels.shape, bool)
    alike[:, 1:] |= labels[:, 1:] == labels[:, :-1]
    alike[1:] |= labels[1:] == labels[:-1]
    return bool(2 * np.count_nonzero(there & alike) < np.count_nonzero(there)) and np.unique(labels).size > _MANY_VALUES


def crumbles(labels: NDArray[np.int32]) -> bool:
    """Whether (H, W) has many labels, and most of them nowhere fill 3 x 3 pixels: of smoothed colours each mixture at the edge of a nucleus is one."""
    inside = ndimage.maximum_filter(labels, 3) == ndimage.minimum_filter(labels, 3)
    count = np.unique(labels[labels > 0]).size
    return count > _MANY_VALUES and 2 * np.unique(labels[inside & (labels > 0)]).size < count


def _thinned(pixels: NDArray[Any]) -> NDArray[Any]:
    step = max(1, max(pixels.shape[:2]) // _SIDE)
    return pixels[::step, ::step]


def light_of(image: NDArray[Any]) -> NDArray[np.float32]:
    """(H, W, 3) -> its brightness at so many pixels that ``difference`` needs no more: (h, w), h and w about 512 at most."""
    return np.asarray(_thinned(image).mean(2), np.float32)


def difference(light: NDArray[np.float32], labels: NDArray[np.int32]) -> float:
    """By how many standard deviations of ``light_of`` an image what (H, W) labels mark is lighter than the rest; NaN where they mark all or nothing, or it is blank."""
    marked, spread = _thinned(labels) > 0, float(light.std())
    if not spread or marked.shape != light.shape or not 0 < np.count_nonzero(marked) < marked.size:
        return float("nan")
    return float(light[marked].mean() - light[~marked].mean()) / spread


def of_other_images(differences: Sequence[float]) -> bool:
    """Whether what the masks of a domain mark is on average neither lighter nor darker than the rest, as where masks belong to other images or are moved."""
    known = [value for value in differences if not math.isnan(value)]
    return len(known) >= _FEWEST and abs(sum(known) / len(known)) < _FAINT


OTHER_IMAGES = (
    "marks what is neither lighter nor darker than the rest of the image, and so do the others",
    "see that each mask is of the image of its name, and lies where the nuclei are (in phase contrast it may)",
)
"""Problem and cure."""
