"""Whole slides and other images too large for memory, read a region at a time at the pixel size that is wanted.

OpenSlide reads what it knows (SVS, NDPI, MRXS, ...), tifffile any other TIFF, with or without a pyramid, zarr OME-Zarr.
"""

import html
import json
import math
import re
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from celladapt.data.images import quiet, require_file, three_channels
from celladapt.data.limits import MAX_CHANNELS, MAX_MEGAPIXELS
from celladapt.data.tiff import JPEG_CODES, TIFF_HEADS, first_series, open_tiff
from celladapt.errors import FileError, InputError, optional

SLIDE_SUFFIXES = (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide")
LARGE = int(MAX_MEGAPIXELS * 1e6)
"""Pixels above which a TIFF is read in regions even if it has no pyramid."""
OVERVIEW_SIDE = 2048
_NEAR = 0.05  # a scale this close to 1 is taken for 1: scanners round their pixel sizes
_BLOCK = 4096
_LARGEST_PIECE = 2**26  # pixels that are unpacked at once
_OTHER_COLOURS = tifffile.PHOTOMETRIC.PALETTE, tifffile.PHOTOMETRIC.SEPARATED, tifffile.PHOTOMETRIC.CIELAB, tifffile.PHOTOMETRIC.YCBCR
_AS_RGB = (*JPEG_CODES, 33003, 33004, 33005, 34712)  # JPEG and JPEG 2000: their decoders give RGB
_MICRONS = {
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
_PLAUSIBLE = (0.02, 20.0)  # µm per pixel of a microscope; what a screen or printer has is none

ReadLevel = Callable[[int, int, int, int, int], NDArray[Any]]
"""(level, y, x, height, width) within the level -> [height, width, C], C = 1 to 4."""


@dataclass(frozen=True)
class Level:
    """One resolution of a slide."""

    height: int
    width: int
    downsample: float
    """Pixels of the full resolution to one of these, along a side."""


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
                levels, found, read = _opened(path, files)
        except InputError:
            raise
        except PermissionError as error:
            raise FileError(path, f"cannot be opened ({error.strerror})", "check its permissions") from error
        except Exception as error:
            raise FileError(path, "is damaged, cut short or not a slide", "copy or export it again") from error
        if any(level.height < 1 or level.width < 1 for level in levels):
            raise FileError(path, "has no pixels", "export it again")
        plausible = found if found is not None and _PLAUSIBLE[0] <= found <= _PLAUSIBLE[1] else None
        return Slide(path, levels, pixel_size or plausible, read, files.pop_all())


def tiff_pixel_size(path: Path) -> float | None:
    """µm per pixel that a TIFF states (OME, ImageJ or resolution tags); None where it states none that a microscope could have."""
    try:
        require_file(path)
        with quiet(), open_tiff(path) as tif:
            found = _tiff_pixel_size(tif)
    except Exception:  # whatever is wrong with it, the reading of its pixels will tell
        return None
    return found if found is not None and _PLAUSIBLE[0] <= found <= _PLAUSIBLE[1] else None


def _opened(path: Path, files: ExitStack) -> tuple[tuple[Level, ...], float | None, ReadLevel]:
    if path.is_dir():
        return _with_zarr(path, files)
    require_file(path)
    with open(path, "rb") as handle:
        head = handle.read(4)
    if not head:
        raise FileError(path, "is empty (0 bytes)", "copy or export it again")
    tiff = head in TIFF_HEADS
    if tiff:
        _no_part_missing(path)
    try:
        openslide = optional("openslide", f"Reading {path}", "slides")
    except InputError:
        if not tiff:
            raise
        return _with_tifffile(path, files)
    if openslide.OpenSlide.detect_format(path) in (None, "generic-tiff"):
        if not tiff:
            raise FileError(path, "is not a slide that can be read", "give SVS, NDPI, MRXS, another OpenSlide format, TIFF or OME-Zarr")
        return _with_tifffile(path, files)
    return _with_openslide(openslide.OpenSlide(path), files)


def _with_openslide(slide: Any, files: ExitStack) -> tuple[tuple[Level, ...], float | None, ReadLevel]:
    files.callback(slide.close)
    # What was scanned, where the file says so; QuPath too counts from its corner.
    left, top = (int(slide.properties.get(f"openslide.bounds-{axis}", 0)) for axis in "xy")
    sides = zip(slide.dimensions, ("width", "height"), strict=True)
    width, height = (int(slide.properties.get(f"openslide.bounds-{side}", full)) for full, side in sides)
    levels = tuple(Level(int(height / d), int(width / d), float(d)) for d in slide.level_downsamples)

    def read(level: int, y: int, x: int, h: int, w: int) -> NDArray[Any]:
        d = levels[level].downsample
        pixels = np.asarray(slide.read_region((left + round(x * d), top + round(y * d)), level, (w, h)))
        opaque, colours = pixels[..., 3:], pixels[..., :3]
        if opaque.min(initial=255) == 255:
            return np.ascontiguousarray(colours)
        return np.asarray(np.where(opaque == 0, np.uint8(255), colours))  # where nothing was scanned is glass

    size = slide.properties.get("openslide.mpp-x")
    return levels, float(size) if size else None, read


def _with_tifffile(path: Path, files: ExitStack) -> tuple[tuple[Level, ...], float | None, ReadLevel]:
    zarr = optional("zarr", f"Reading {path}", "slides")
    tif = files.enter_context(open_tiff(path))
    series = first_series(tif)
    page = series.keyframe
    if page.photometric in _OTHER_COLOURS and page.compression not in _AS_RGB:
        raise FileError(path, f"keeps its colours as {tifffile.PHOTOMETRIC(page.photometric).name}", "save it as RGB or grey")
    if math.prod(page.chunks[:2]) <= _LARGEST_PIECE:
        arrays = [zarr.open_array(tif.aszarr(series=0, level=k), mode="r") for k in range(len(series.levels))]
    elif page.is_memmappable:
        # Not by tifffile.memmap, which would open the file anew, with whatever others it names.
        kinds = [np.dtype(f"{tif.byteorder}{np.dtype(level.dtype).char}") for level in series.levels]
        places = [int(level.dataoffset) for level in series.levels]  # type: ignore[arg-type]  # of planes that lie apart None, which is refused
        arrays = [np.memmap(path, kind, "r", at, level.shape) for kind, at, level in zip(kinds, places, series.levels, strict=True)]
    else:
        raise FileError(path, "is compressed in one piece, which would have to be unpacked for each region", "save it as a tiled TIFF")
    planes = [_plane(path, array, level.axes) for array, level in zip(arrays, series.levels, strict=True)]
    dark = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE

    def read(level: int, y: int, x: int, h: int, w: int) -> NDArray[Any]:
        pixels = planes[level][1](y, x, h, w)
        return np.iinfo(pixels.dtype).max - pixels if dark else pixels

    return *_pyramid(planes, _tiff_pixel_size(tif)), read


def _with_zarr(path: Path, files: ExitStack) -> tuple[tuple[Level, ...], float | None, ReadLevel]:
    zarr = optional("zarr", f"Reading {path}", "slides")
    _no_pickle(path, [path / ".zmetadata", path / "zarr.json"])
    group = zarr.open_group(path, mode="r")
    attributes = group.attrs.get("ome", group.attrs)
    if "multiscales" not in attributes:
        raise FileError(
            path,
            "is not an OME-Zarr image (it has no multiscales)",
            "give the folder of the image itself, which has multiscales in its .zattrs or zarr.json",
        )
    scales = attributes["multiscales"][0]
    axes = [axis["name"] if isinstance(axis, dict) else axis for axis in scales.get("axes", ())]
    planes = []
    for data in scales["datasets"]:
        _no_pickle(path, [path / data["path"] / ".zarray", path / data["path"] / "zarr.json"])
        try:
            array = group[data["path"]]
        except KeyError:
            raise FileError(path, f"lacks its level '{data['path']}', which its description names", "copy or export it again") from None
        planes.append(_plane(path, array, "".join(axes).upper() or "TCZYX"[-array.ndim :]))
    unit = next((_MICRONS.get(axis.get("unit", "")) for axis in scales.get("axes", ()) if isinstance(axis, dict) and axis["name"] == "x"), None)
    moved = [step["scale"][-1] for step in scales["datasets"][0].get("coordinateTransformations", ()) if step["type"] == "scale"]
    return *_pyramid(planes, unit * float(moved[0]) if unit and moved else None), lambda level, y, x, h, w: planes[level][1](y, x, h, w)


def _no_pickle(path: Path, descriptions: list[Path]) -> None:
    """Raise FileError where one of the descriptions names numcodecs' pickle, whose decoding can run code."""
    for description in descriptions:
        with suppress(OSError):
            if re.search(r'"(id|name)": "(numcodecs\.)?pickle"', json.dumps(json.loads(description.read_bytes()))):
                raise FileError(path, "holds pickles, which can run code and so are not opened here", "export it again with another codec")


Plane = tuple[tuple[int, int], Callable[[int, int, int, int], NDArray[Any]]]
"""((height, width), (y, x, h, w) -> [h, w, C])."""


def _plane(path: Path, array: Any, axes: str) -> Plane:
    """The first plane of an array with the axes ``axes``, its channels last; a leading axis without a name and of at most 4 makes channels, as in ``read_image``."""
    channels = next((k for k, axis in enumerate(axes) if axis == "S"), None)
    if channels is None:
        channels = next((k for k, axis in enumerate(axes) if axis == "C" or (axis in "QI" and k == 0 and array.shape[0] <= MAX_CHANNELS)), None)
    rows, columns = axes.index("Y"), axes.index("X")
    if channels is not None and array.shape[channels] > MAX_CHANNELS:
        raise FileError(path, f"has {array.shape[channels]} channels", f"save at most {MAX_CHANNELS} of them")

    def read(y: int, x: int, h: int, w: int) -> NDArray[Any]:
        index: list[Any] = [0] * len(axes)
        index[rows], index[columns] = slice(y, y + h), slice(x, x + w)
        if channels is not None:
            index[channels] = slice(None)
        block = np.asarray(array[tuple(index)])
        if channels is None:
            return block[..., None]
        return np.moveaxis(block, 0, -1) if channels < rows else block

    return (array.shape[rows], array.shape[columns]), read


def _pyramid(planes: list[Plane], pixel_size: float | None) -> tuple[tuple[Level, ...], float | None]:
    full = planes[0][0]
    return tuple(Level(h, w, math.sqrt(full[0] * full[1] / (h * w))) for (h, w), _ in planes), pixel_size


def _no_part_missing(path: Path) -> None:
    """Raise FileError where a TIFF names pixels beyond its own end: readers would show them black."""
    end = path.stat().st_size
    with open_tiff(path) as tif:
        for level in first_series(tif).levels:
            page = level.keyframe
            segments = list(zip(page.dataoffsets, page.databytecounts, strict=False))
            if any(offset + count > end for offset, count in segments):
                raise FileError(path, "is cut short", "copy or export it again")


def _tiff_pixel_size(tif: tifffile.TiffFile) -> float | None:
    if tif.ome_metadata:
        described = html.unescape(tif.ome_metadata)
        found = re.search(r'PhysicalSizeX="([0-9.eE+-]+)"', described)
        unit = re.search(r'PhysicalSizeXUnit="([^"]+)"', described)
        return float(found[1]) * _MICRONS.get(unit[1] if unit else "µm", math.nan) if found else None
    if tif.is_svs and (found := re.search(r"MPP = ([0-9.]+)", tif.pages.first.description)):
        return float(found[1])
    resolution = tif.pages.first.tags.get("XResolution")
    if resolution is None or not resolution.value[0]:
        return None
    step = resolution.value[1] / resolution.value[0]
    if tif.imagej_metadata:
        unit_name = str(tif.imagej_metadata.get("unit", "")).lower()
        return step * _MICRONS[unit_name] if unit_name in _MICRONS else None
    return float(step * {2: 25400.0, 3: 10000.0}.get(int(tif.pages.first.resolutionunit), math.nan))


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
