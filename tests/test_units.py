"""Areas in pixels and in µm."""

import math

import pytest

from celladapt.errors import InputError
from celladapt.units import area_in_pixels, check_pixel_size


@pytest.mark.parametrize("text", ["20", " 20 ", "20px2", "20 px²", "20PX^2", "20.4"])
def test_pixels_are_taken_as_they_are(text: str) -> None:
    assert area_in_pixels(text) == area_in_pixels(text, 0.25) == 20


@pytest.mark.parametrize("text", ["5um2", "5 um2", "5um^2", "5 \u00b5m²", "5\u03bcm2", "5.0UM2"])
def test_micrometres_become_pixels(text: str) -> None:
    assert area_in_pixels(text, 0.25) == 80
    assert area_in_pixels(text, 0.5) == 20


@pytest.mark.parametrize("text", ["", "px2", "5um", "5 px", "-5", "5um3", "5 mm2", "nan", "5e", "1,5um2"])
def test_what_is_no_area_is_refused_by_its_option(text: str) -> None:
    with pytest.raises(InputError, match=r"^--min-nucleus is '.*', which is no area; write it as 20, 20px2 or 5um2\.$"):
        area_in_pixels(text, 0.25, "--min-nucleus")


def test_micrometres_need_the_size_of_a_pixel() -> None:
    with pytest.raises(InputError, match=r"--min-size is '5um2' .* give --pixel-size in µm"):
        area_in_pixels("5um2")
    for wrong in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="--pixel-size is"):
            area_in_pixels("5um2", wrong)


@pytest.mark.parametrize("size", [1e-200, 0.0, -1.0, math.nan, math.inf, 1e9])
def test_a_pixel_size_that_nothing_has_is_refused_by_its_option(size: float) -> None:
    with pytest.raises(InputError, match=r"--at is .*; give µm per pixel"):
        check_pixel_size("--at", size)
    check_pixel_size("--at", 0.001)
    check_pixel_size("--at", None)
