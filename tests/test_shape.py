"""Shapes by hand: how solid, how large."""

import numpy as np
import pytest
from skimage.morphology import convex_hull_image

from celladapt.shape import solidity, usual_area


def test_solidity_by_hand() -> None:
    labels = np.zeros((40, 40), np.int32)
    labels[2:12, 2:12] = 1
    assert solidity(labels) == 1
    labels[20:30, 2:12] = labels[30:36, 2:4] = 5  # a square with a tail
    hull = float(convex_hull_image(labels == 5).sum())
    assert solidity(labels) == pytest.approx((100 + 112 * 112 / hull) / 212)
    assert solidity(np.zeros((4, 4), np.int32)) == 0


def test_the_usual_area_counts_pixels_not_pieces() -> None:
    assert usual_area(np.array([1] * 30 + [100, 0])) == 100
    assert usual_area(np.array([0, 0])) == 0
    assert usual_area(np.zeros(0, int)) == 0
