"""Tissue is found on glass and in the dark, and none where there is none."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from celladapt.tissue import find_tissue

SIDE = 200


def disc() -> NDArray[np.bool_]:
    y, x = np.ogrid[:SIDE, :SIDE]
    found: NDArray[np.bool_] = (y - 90) ** 2 + (x - 110) ** 2 < 50**2
    return found


def drawn(background: tuple[int, ...], inside: tuple[int, ...], noise: float = 2) -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    image = np.where(disc()[..., None], np.array(inside), np.array(background)) + rng.normal(0, noise, (SIDE, SIDE, 3))
    return image.clip(0, 255).round().astype(np.uint8)


@pytest.mark.parametrize(
    ("background", "inside"),
    [
        ((243, 243, 243), (200, 120, 170)),  # stained
        ((243, 243, 243), (235, 215, 228)),  # faintly
        ((215, 215, 210), (190, 150, 175)),  # on grey glass
        ((2, 2, 2), (60, 60, 60)),  # fluorescent
        ((5, 5, 5), (5, 5, 40)),
    ],
)
def test_a_piece_of_tissue_is_found_with_little_around_it(background: tuple[int, ...], inside: tuple[int, ...]) -> None:
    found = find_tissue(drawn(background, inside))
    assert found[disc()].all(), "none is lost"
    assert not found[~ndimage.binary_dilation(disc(), iterations=6)].any()


@pytest.mark.parametrize("colour", [(243, 243, 243), (255, 255, 255), (3, 3, 3), (0, 0, 0)])
def test_glass_alone_is_none(colour: tuple[int, ...]) -> None:
    assert not find_tissue(drawn(colour, colour)).any()


def test_a_slide_full_of_tissue_is_taken_whole_dense_and_loose() -> None:
    found = find_tissue(drawn((225, 170, 200), (120, 60, 140)))
    assert found.mean() > 0.99


def test_deep_pictures_are_read_likewise() -> None:
    image = drawn((243, 243, 243), (200, 120, 170))
    np.testing.assert_array_equal(find_tissue(image.astype(np.uint16) * 257), find_tissue(image))
