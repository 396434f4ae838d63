"""Parts of images and of lists of images, where a look at everything would take too long."""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


def evenly(items: Sequence[T], most: int) -> list[T]:
    """At most ``most`` of ``items``, evenly chosen, the first and the last among them where there are two or more."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int))]


def middle(array: NDArray[Any], side: int) -> NDArray[Any]:
    """A copy of the middle of an image or mask (H, W, ...), at most ``side`` pixels high and wide; a copy, so that the rest can be forgotten."""
    top, left = (max(0, (n - side) // 2) for n in array.shape[:2])
    return array[top : top + side, left : left + side].copy()
