"""Sizes that a person or a file gives, in pixels or in µm."""

import math
import re

from celladapt.errors import InputError

_AREA = re.compile(r"(?P<number>\d+(\.\d*)?|\.\d+)\s*(?P<unit>(px|[uµμ]m)(2|\^2|²))?", re.IGNORECASE)  # two signs for micro are in use

MICRONS = {
    "micrometer": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "µm": 1.0,
    "um": 1.0,
    "\\u00b5m": 1.0,
    "nanometer": 1e-3,
    "nm": 1e-3,
    "millimeter": 1e3,
    "mm": 1e3,
}
"""How many µm one unit is, by the names that files give it."""
_PLAUSIBLE = (0.02, 20.0)  # µm per pixel of a microscope; what a screen or printer has is none


def check_pixel_size(option: str, value: float | None) -> None:
    """Raise InputError where ``value``, in µm per pixel, is given and cannot be one, of an electron microscope or a camera either."""
    if value is not None and not 1e-4 <= value <= 1e4:
        raise InputError(f"{option} is {value}; give µm per pixel, for example 0.25.")


def plausible_pixel_size(size: float | None) -> float | None:
    """``size`` in µm if a microscope's pixel could have it, else None."""
    return size if size is not None and _PLAUSIBLE[0] <= size <= _PLAUSIBLE[1] else None


def area_in_pixels(text: str | float, pixel_size: float | None = None, option: str = "--min-size") -> int:
    """An area such as ``20``, ``20px2``, ``5um2`` or ``5 µm²`` in px², rounded; without a unit it is in px².

    Args:
        text: what the person gave.
        pixel_size: µm, side of a pixel; None where it is not known.
        option: what the errors call it.

    Raises:
        InputError: it is no area, or it is in µm² and the pixel size is not known or not above 0.
    """
    found = _AREA.fullmatch(str(text).strip())
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
