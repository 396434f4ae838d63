"""What is no mask by its look: one whose edges have gone grey, or a picture. Each grey would be taken for a nucleus of its own."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_WHITE, _BLACK = 248, 8
"""From and up to here JPEG may have moved what was 255 or 0."""
_FADED = 9
"""Of a mask with grey edges a tenth or more is white; of label images that go on to 255 what is labelled so is far less."""
FEW_VALUES, _MANY_VALUES = 8, 32
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
