"""Sizes that a person gives, in pixels or in µm."""

import math
import re

from celladapt.errors import InputError

_AREA = re.compile(r"(?P<number>\d+(\.\d*)?|\.\d+)\s*(?P<unit>(px|[uµμ]m)(2|\^2|²))?", re.IGNORECASE)  # two signs for micro are in use


def check_pixel_size(option: str, value: float | None) -> None:
    """Raise InputError where ``value``, in µm per pixel, is given and cannot be one."""
    if value is not None and not 0 < value < math.inf:
        raise InputError(f"{option} is {value}; give µm per pixel, for example 0.25.")


def area_in_pixels(text: str, pixel_size: float | None = None, option: str = "--min-size") -> int:
    """An area such as ``20``, ``20px2``, ``5um2`` or ``5 µm²`` in px², rounded; without a unit it is in px².

    Args:
        text: what the person gave.
        pixel_size: µm, side of a pixel; None where it is not known.
        option: what the errors call it.

    Raises:
        InputError: it is no area, or it is in µm² and the pixel size is not known or not above 0.
    """
    found = _AREA.fullmatch(text.strip())
    if not found:
        raise InputError(f"{option} is '{text}', which is no area; write it as 20, 20px2 or 5um2.")
    number = float(found["number"])
    if not found["unit"] or found["unit"].lower().startswith("px"):
        return round(number)
    if pixel_size is None:
        raise InputError(f"{option} is '{text}' but the size of a pixel is not known; give --pixel-size in µm, or the area in px2.")
    if not 0 < pixel_size < math.inf:
        raise InputError(f"--pixel-size is {pixel_size}; give the side of a pixel in µm, such as 0.25.")
    return round(number / pixel_size**2)
