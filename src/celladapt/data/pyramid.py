"""Three libraries that read a file in regions: OpenSlide what it knows (SVS, NDPI, MRXS, ...), tifffile any other TIFF, with or without a pyramid, zarr OME-Zarr."""

import json
import math
import re
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from celladapt.data.images import over_white, require_file, without_alpha
from celladapt.data.limits import MAX_CHANNELS, check_channels
from celladapt.data.tiff import ALPHA, ASSOCIATED, JPEG_CODES, TIFF_HEADS, first_series, open_tiff, pixel_size_in
from celladapt.errors import FileError, InputError, optional
from celladapt.units import MICRONS

_LARGEST_PIECE = 2**26  # pixels that are unpacked at once
_OTHER_COLOURS = tifffile.PHOTOMETRIC.PALETTE, tifffile.PHOTOMETRIC.SEPARATED, tifffile.PHOTOMETRIC.CIELAB, tifffile.PHOTOMETRIC.YCBCR
_AS_RGB = (*JPEG_CODES, 33003, 33004, 33005, 34712)  # JPEG and JPEG 2000: their decoders give RGB, but of inks

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
class Pyramid:
    """A file that is open to be read in regions."""

    levels: tuple[Level, ...]
    """From the full resolution down."""
    pixel_size: float | None
    """µm per pixel at full resolution, as the file says, whether or not a microscope could have it; None where it says none."""
    read_level: ReadLevel


def open_pyramid(path: Path, files: ExitStack) -> Pyramid:
    """Open a file, or the folder of an OME-Zarr image, by the library for it; ``files`` closes it.

    Raises:
        FileError: missing, empty, cut short, or nothing that is read in regions; colours or a compression that are not; more than 4 channels; a codec that could run code.
        InputError: a library is not installed.
        PermissionError: the system does not let it be opened.
        Exception: whatever else a library makes of damaged bytes.
    """
    if path.is_dir():
        return _with_zarr(path)
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


def _with_openslide(slide: Any, files: ExitStack) -> Pyramid:
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
    return Pyramid(levels, float(size) if size else None, read)


def _with_tifffile(path: Path, files: ExitStack) -> Pyramid:
    zarr = optional("zarr", f"Reading {path}", "slides")
    tif = files.enter_context(open_tiff(path))
    series = first_series(tif)
    page = series.keyframe
    if page.photometric in _OTHER_COLOURS and (page.photometric == tifffile.PHOTOMETRIC.SEPARATED or page.compression not in _AS_RGB):
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
    see_through = page.extrasamples[-1] if page.extrasamples and page.extrasamples[-1] in ALPHA and page.samplesperpixel <= MAX_CHANNELS else None

    def read(level: int, y: int, x: int, h: int, w: int) -> NDArray[Any]:
        pixels = planes[level][1](y, x, h, w)
        white, alpha = 2**page.bitspersample - 1 if pixels.dtype.kind in "iu" else 1.0, None
        if see_through is not None:
            pixels, alpha = without_alpha(pixels, white, see_through == ASSOCIATED)
        if dark:
            pixels = ~pixels if pixels.dtype == np.bool_ else (white - pixels).astype(pixels.dtype)
        if alpha is None or alpha.min(initial=1) == 1:
            return np.ascontiguousarray(pixels)
        laid = over_white(pixels, alpha, white)
        return np.asarray(laid if pixels.dtype.kind == "f" else np.rint(laid), pixels.dtype)

    return Pyramid(_levels(planes), pixel_size_in(tif), read)


def _with_zarr(path: Path) -> Pyramid:
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
    unit = next((MICRONS.get(axis.get("unit", "")) for axis in scales.get("axes", ()) if isinstance(axis, dict) and axis["name"] == "x"), None)
    moved = [step["scale"][-1] for step in scales["datasets"][0].get("coordinateTransformations", ()) if step["type"] == "scale"]
    return Pyramid(_levels(planes), unit * float(moved[0]) if unit and moved else None, lambda level, y, x, h, w: planes[level][1](y, x, h, w))


def _no_pickle(path: Path, descriptions: list[Path]) -> None:
    """Raise FileError where one of the descriptions names numcodecs' pickle, whose decoding can run code."""
    for description in descriptions:
        with suppress(OSError):
            if re.search(r'"(id|name)": "(numcodecs\.)?pickle"', json.dumps(json.loads(description.read_bytes()))):
                raise FileError(path, "holds pickles, which can run code and so are not opened here", "export it again with another codec")


_Plane = tuple[tuple[int, int], Callable[[int, int, int, int], NDArray[Any]]]
"""((height, width), (y, x, h, w) -> [h, w, C])."""


def _plane(path: Path, array: Any, axes: str) -> _Plane:
    """The first plane of an array with the axes ``axes``, its channels last; a leading axis without a name and of at most 4 makes channels, as in ``read_image``."""
    channels = next((k for k, axis in enumerate(axes) if axis == "S"), None)
    if channels is None:
        channels = next((k for k, axis in enumerate(axes) if axis == "C" or (axis in "QI" and k == 0 and array.shape[0] <= MAX_CHANNELS)), None)
    rows, columns = axes.index("Y"), axes.index("X")
    if channels is not None:
        check_channels(path, array.shape[channels])

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


def _levels(planes: list[_Plane]) -> tuple[Level, ...]:
    full = planes[0][0]
    return tuple(Level(h, w, math.sqrt(full[0] * full[1] / (h * w))) for (h, w), _ in planes)


def _no_part_missing(path: Path) -> None:
    """Raise FileError where a TIFF names pixels beyond its own end: readers would show them black."""
    end = path.stat().st_size
    with open_tiff(path) as tif:
        for level in first_series(tif).levels:
            page = level.keyframe
            segments = list(zip(page.dataoffsets, page.databytecounts, strict=False))
            if any(offset + count > end for offset, count in segments):
                raise FileError(path, "is cut short", "copy or export it again")
