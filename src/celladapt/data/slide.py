"""Whole slides and other images too large for memory, read a region at a time at the pixel size that is wanted."""

import math
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from celladapt.data.images import quiet, require_file, three_channels
from celladapt.data.limits import MAX_MEGAPIXELS
from celladapt.data.pyramid import Level, ReadLevel, open_pyramid
from celladapt.data.tiff import first_series, open_tiff, pixel_size_in
from celladapt.errors import FileError, InputError
from celladapt.units import plausible_pixel_size

SLIDE_SUFFIXES = (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide")
LARGE = int(MAX_MEGAPIXELS * 1e6)
"""Pixels above which a TIFF is read in regions even if it has no pyramid."""
OVERVIEW_SIDE = 2048
_NEAR = 0.05  # a scale this close to 1 is taken for 1: scanners round their pixel sizes
_BLOCK = 4096


@dataclass(frozen=True)
class Slide:
    """An open slide. Its reading may be called from several threads."""

    path: Path
    levels: tuple[Level, ...]
    """From the full resolution down."""
    pixel_size: float | None
    """µm per pixel at full resolution; None where the file does not say."""
    read_level: ReadLevel
    open_files: ExitStack

    def __enter__(self) -> "Slide":
        return self

    def __exit__(self, *_: object) -> None:
        self.open_files.close()

    @cached_property
    def small(self) -> NDArray[Any]:
        """[h, w, C] as stored, at most about ``OVERVIEW_SIDE`` a side: of the smallest level that is at least half of that, thinned; read once."""
        return _small(self)

    def region(self, level: int, y: int, x: int, h: int, w: int) -> NDArray[Any]:
        """[h, w, C] as stored.

        Raises:
            FileError: that part of the file is damaged.
        """
        try:
            with quiet():
                return self.read_level(level, y, x, h, w)
        except InputError:
            raise
        except MemoryError as error:
            raise FileError(self.path, "needs more memory than this machine has to read one region", "save it as a tiled pyramid") from error
        except Exception as error:  # each reader has its own errors for damaged bytes
            raise FileError(self.path, f"is damaged or cut short (at row {y}, column {x} of level {level})", "copy or export it again") from error


@dataclass(frozen=True)
class View:
    """A slide at one pixel size: the image that the network sees."""

    slide: Slide
    level: int
    scale: float
    """Pixels of the level to one of the view, along a side; 1 where nothing is resampled."""
    stretch: tuple[float, float] | None
    """Values that become black and white, where the slide is deeper than 8 bits."""

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        level = self.slide.levels[self.level]
        return max(1, int(level.height / self.scale + 1e-6)), max(1, int(level.width / self.scale + 1e-6))  # what is there for a whole pixel

    @property
    def downsample(self) -> float:
        """Pixels of the full resolution to one of the view, along a side."""
        return self.slide.levels[self.level].downsample * self.scale

    @property
    def pixel_size(self) -> float | None:
        """µm per pixel of the view."""
        return None if self.slide.pixel_size is None else self.slide.pixel_size * self.downsample

    def read(self, y: int, x: int, h: int, w: int) -> NDArray[Any]:
        """[h, w, 3] uint8 or uint16 (black to white over its full range), the part inside the view; neighbouring regions fit without a seam.

        Raises:
            FileError: that part of the file is damaged.
        """
        if self.scale == 1:
            return as_rgb(self.slide.region(self.level, y, x, h, w), self.stretch)
        level, reach = self.slide.levels[self.level], math.ceil(2 * self.scale) + 2  # what the filter looks at around a pixel
        top, left = max(0, int(y * self.scale) - reach), max(0, int(x * self.scale) - reach)
        bottom, right = min(level.height, math.ceil((y + h) * self.scale) + reach), min(level.width, math.ceil((x + w) * self.scale) + reach)
        pixels = as_rgb(self.slide.region(self.level, top, left, bottom - top, right - left), self.stretch)
        box = (
            x * self.scale - left,
            y * self.scale - top,
            min(right - left, (x + w) * self.scale - left),
            min(bottom - top, (y + h) * self.scale - top),
        )
        return _resized(pixels, (w, h), box)


def view_at(slide: Slide, at: float | None) -> View:
    """``slide`` seen at ``at`` µm per pixel: from the coarsest level that is fine enough, resampled where it does not fit; as it is where a size is unknown."""
    stretch = stretch_of(slide)
    if at is None or slide.pixel_size is None:
        return View(slide, 0, 1.0, stretch)
    wanted = at / slide.pixel_size
    level = max((k for k, level in enumerate(slide.levels) if level.downsample <= wanted * (1 + _NEAR)), default=0)
    scale = wanted / slide.levels[level].downsample
    return View(slide, level, 1.0 if abs(scale - 1) <= _NEAR else scale, stretch)


def overview(slide: Slide) -> NDArray[Any]:
    """The whole slide at no more than about ``OVERVIEW_SIDE`` pixels a side, [h, w, 3] uint8 or uint16; read in blocks where it has no small level."""
    return as_rgb(slide.small, stretch_of(slide))


def as_rgb(pixels: NDArray[Any], stretch: tuple[float, float] | None) -> NDArray[Any]:
    """[H, W, C] as stored -> [H, W, 3] uint8 or uint16, stretched where that is asked for."""
    if stretch is not None:
        low, high = stretch
        pixels = np.rint(np.clip((np.nan_to_num(pixels.astype(np.float32)) - low) / (high - low), 0, 1) * 65535).astype(np.uint16)
    elif pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    return three_channels(pixels)


def stretch_of(slide: Slide) -> tuple[float, float] | None:
    """Values to take for black and white: 0.1 and 99.9 percent of a small look at the slide; None for 8 bits."""
    y, x = slide.levels[-1].height // 2, slide.levels[-1].width // 2
    if slide.region(len(slide.levels) - 1, y, x, 1, 1).dtype in (np.uint8, np.bool_):
        return None
    low, high = np.percentile(slide.small.astype(np.float64), (0.1, 99.9)).tolist()
    if not (math.isfinite(low) and math.isfinite(high)):
        raise FileError(slide.path, "has values that are not finite (NaN or infinity)", "replace them and save it again")
    return (low, high) if high > low else (low, low + 1)


def is_slide(path: Path) -> bool:
    """Whether ``path`` is read in regions: by its suffix, as a folder of OME-Zarr, or as a TIFF that has a pyramid or is large."""
    if path.suffix.lower() in SLIDE_SUFFIXES or path.suffix.lower() == ".zarr":
        return True
    if path.suffix.lower() not in (".tif", ".tiff"):
        return False
    try:
        require_file(path)
        with quiet(), open_tiff(path) as tif:
            series = first_series(tif)
            return len(series.levels) > 1 or series.keyframe.imagewidth * series.keyframe.imagelength > LARGE
    except Exception:  # damaged: the reader of ordinary images says what is wrong
        return False


def open_slide(path: Path, pixel_size: float | None = None) -> Slide:
    """Open a slide.

    Args:
        path: a file, or the folder of an OME-Zarr image.
        pixel_size: µm per pixel at full resolution, instead of what the file says.

    Raises:
        FileError: missing, damaged or unknown file, more than 4 channels.
        InputError: a library is not installed; the sentence has the line that installs it.
    """
    path = Path(path)
    if not path.exists():
        raise FileError(path, "does not exist", "check the name")
    with ExitStack() as files:
        try:
            with quiet():
                pyramid = open_pyramid(path, files)
        except InputError:
            raise
        except PermissionError as error:
            raise FileError(path, f"cannot be opened ({error.strerror})", "check its permissions") from error
        except Exception as error:
            raise FileError(path, "is damaged, cut short or not a slide", "copy or export it again") from error
        if any(level.height < 1 or level.width < 1 for level in pyramid.levels):
            raise FileError(path, "has no pixels", "export it again")
        return Slide(path, pyramid.levels, pixel_size or plausible_pixel_size(pyramid.pixel_size), pyramid.read_level, files.pop_all())


def tiff_pixel_size(path: Path) -> float | None:
    """µm per pixel that a TIFF states (OME, SVS, ImageJ or resolution tags); None where it states none that a microscope could have."""
    try:
        require_file(path)
        with quiet(), open_tiff(path) as tif:
            return plausible_pixel_size(pixel_size_in(tif))
    except Exception:  # whatever is wrong with it, the reading of its pixels will tell
        return None


def _small(slide: Slide) -> NDArray[Any]:
    sides = [max(level.height, level.width) for level in slide.levels]
    number = max((k for k, side in enumerate(sides) if side >= OVERVIEW_SIDE // 2), default=0)
    level, step = slide.levels[number], max(1, math.ceil(sides[number] / OVERVIEW_SIDE))
    block = _BLOCK // step * step or step
    rows = []
    for y in range(0, level.height, block):
        h = min(block, level.height - y)
        pieces = (slide.region(number, y, x, h, min(block, level.width - x)) for x in range(0, level.width, block))
        rows.append(np.concatenate([_thinned(piece, step) for piece in pieces], axis=1))
    return np.concatenate(rows)


def _thinned(pixels: NDArray[Any], step: int) -> NDArray[Any]:
    """Means over squares of ``step`` pixels, what is left over at the edges likewise."""
    if step == 1:
        return pixels
    starts = [np.arange(0, side, step) for side in pixels.shape[:2]]
    sums = np.add.reduceat(np.add.reduceat(pixels.astype(np.float32), starts[0], axis=0), starts[1], axis=1)
    counts = [np.diff([*start, side]) for start, side in zip(starts, pixels.shape[:2], strict=True)]
    means = sums / (counts[0][:, None, None] * counts[1][None, :, None])
    return np.asarray(means.astype(pixels.dtype))


def _resized(pixels: NDArray[Any], size: tuple[int, int], box: tuple[float, float, float, float]) -> NDArray[Any]:
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR, box=box))
    planes = [
        np.asarray(Image.fromarray(np.ascontiguousarray(pixels[..., c], np.float32)).resize(size, Image.Resampling.BILINEAR, box=box))
        for c in range(3)
    ]
    return np.asarray(np.rint(np.stack(planes, axis=-1)).clip(0, 65535), np.uint16)
