"""How large an image may be, and how many channels it may have."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from celladapt.config import Config
from celladapt.errors import FileError, InputError

MAX_MEGAPIXELS = Config.max_megapixels
"""Of an image that is read whole, unless ``at_most`` says otherwise: about 23,000 x 23,000 pixels."""
MAX_CHANNELS = 4
TAKEN_CHANNELS = 3
"""Of more the first three, as ``images.three_channels`` takes them."""

# Pillow's own limit (a guard for web servers) is below what one microscope field can have; it refuses at twice this number, and `check_size` at this number.
Image.MAX_IMAGE_PIXELS = int(MAX_MEGAPIXELS * 1e6)

_BYTES_A_PIXEL = 50  # of an image of 8 bits that is read and segmented, as measured; of one of 16 bits more


@contextmanager
def at_most(megapixels: float) -> Iterator[None]:
    """Read images of up to so many million pixels whole, in this process and all its threads, instead of ``MAX_MEGAPIXELS``; slides are read in parts, whatever their size.

    Raises:
        InputError: not above 0 and finite.
    """
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, as_pixels(megapixels)
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def as_pixels(megapixels: float) -> int:
    """Millions of pixels as pixels; raises InputError where that is no limit."""
    if not 0 < megapixels < math.inf:
        raise InputError(f"--max-megapixels is {megapixels:g}; it must be above 0 and finite.")
    return math.ceil(megapixels * 1e6)


def check_size(path: Path, pixels: int) -> None:
    """Raise FileError where an image has more pixels than ``at_most`` allows."""
    if Image.MAX_IMAGE_PIXELS is not None and pixels > Image.MAX_IMAGE_PIXELS:
        raise too_large(path, pixels)


def check_channels(path: Path, channels: int) -> None:
    """Raise FileError where an image has more of them than ``MAX_CHANNELS``."""
    if channels > MAX_CHANNELS:
        raise FileError(path, f"has {channels} channels", "save those with nuclei, at most three")


def too_large(path: Path, pixels: int) -> FileError:
    """The error of an image of so many pixels, with the cures."""
    most, needed = (Image.MAX_IMAGE_PIXELS or 0) / 1e6, math.ceil(pixels / 1e6)
    return FileError(
        path,
        f"has {needed} megapixels, more than the {most:g} that an image read whole may have",
        f"cut it into tiles, or save it as a pyramidal TIFF, which `celladapt predict` reads in parts, or, where there are about "
        f"{max(1, math.ceil(pixels * _BYTES_A_PIXEL / 1e9))} GB of memory free and the command has the option, give --max-megapixels {needed}",
    )
