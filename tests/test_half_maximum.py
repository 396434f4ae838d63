"""Outlines where an image is halfway between a nucleus and its surroundings."""

import numpy as np
from numpy.testing import assert_array_equal
from scipy.ndimage import gaussian_filter
from skimage.filters import threshold_otsu

from celladapt.classical import classical_mask
from celladapt.half_maximum import outlined
from celladapt.metrics import foreground

Y, X = np.mgrid[:80, :160]


def disc(row: float, column: float, radius: float) -> np.ndarray:
    return np.hypot(Y - row, X - column) <= radius


PALE, DENSE, ANY = disc(40, 40, 14), disc(40, 110, 14), np.ones(Y.shape, bool)
HEIGHT = gaussian_filter(50.0 * PALE + 150.0 * DENSE, 2.0)
"""What a lens makes of two nuclei of one size, one of which stands out three times as much."""


def test_a_pale_nucleus_is_outlined_as_truly_as_a_dense_one() -> None:
    left = X < 75
    threshold = 0.6 * threshold_otsu(HEIGHT)
    first = threshold < HEIGHT
    assert foreground(first & left, PALE).iou < 0.85
    found = outlined(first, HEIGHT, ANY)
    assert foreground(found & left, PALE).iou > 0.97
    assert foreground(found & ~left, DENSE).iou > 0.97
    wide = HEIGHT > 8  # both too large by two pixels all round
    assert foreground(wide & ~left, DENSE).iou < 0.8
    assert foreground(outlined(wide, HEIGHT, ANY), PALE | DENSE).iou > 0.95


def test_the_classical_segmentation_draws_them_so_whichever_side_is_lighter() -> None:
    image = (40 + gaussian_filter(100.0 * PALE + 180.0 * DENSE, 2.0)).astype(np.uint8)
    for shown in (image, 255 - image):
        assert foreground(shown > 40 + 90 if shown is image else shown < 215 - 90, PALE | DENSE).iou < 0.9
        assert foreground(classical_mask(shown), PALE | DENSE).iou > 0.97


def test_no_outline_moves_out_further_than_the_slope_of_an_edge() -> None:
    seeds = disc(40, 40, 6) | disc(40, 110, 6)
    found = outlined(seeds, HEIGHT, ANY)
    assert found[40, 40 + 9]
    assert not found[40, 40 + 10]


def test_a_nucleus_hemmed_in_is_held_against_all_of_the_background() -> None:
    inner, hedge = disc(40, 40, 6), disc(40, 40, 16) & ~disc(40, 40, 7.5)
    height = np.where(
        inner | hedge, 100.0, np.where(disc(40, 40, 8), 60.0, 0.0)
    )  # the gap is above halfway to the background, which all of its nuclei are held against
    assert_array_equal(outlined(inner | hedge, height, ANY), disc(40, 40, 16))


def test_nuclei_without_any_surroundings_are_held_against_all_of_the_background() -> None:
    stripes = X % 4 < 2  # no background is more than 2 px from a nucleus
    assert_array_equal(outlined(stripes, np.where(stripes, 100.0, 0.0), ANY), stripes)
    tile = np.full((64, 64, 3), (150, 90, 160), np.uint8) + np.random.default_rng(0).integers(-3, 4, (64, 64, 3)).astype(np.uint8)
    tile[:, :2] = 255  # the frame of a scanner, which is all that is not stained
    assert classical_mask(tile).shape == (64, 64)


def test_where_there_is_no_nucleus_or_no_background_the_mask_stays() -> None:
    for mask in (np.zeros(Y.shape, bool), ANY, disc(40, 40, 1)):
        assert_array_equal(outlined(mask, HEIGHT, ANY), mask)


def test_what_is_not_seen_is_neither_nucleus_nor_surroundings() -> None:
    """A black margin, filled in as high as can be, beside a nucleus: as surroundings it would raise the level above the nucleus itself."""
    seen = X < 58
    height = np.where(seen, HEIGHT, 1000.0)
    found = outlined(HEIGHT > 20, height, seen)
    assert not found[~seen].any()
    assert foreground(found & seen, PALE).iou > 0.97
