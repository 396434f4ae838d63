"""TIFF as tifffile reads it, guarded against files that would make it wait or fill the memory; and the pixel size that it states."""

import html
import logging
import math
import os
import re
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from celladapt.data.limits import MAX_CHANNELS, check_channels, check_size
from celladapt.errors import DAMAGED, FileError
from celladapt.units import MICRONS

TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
ASSOCIATED = tifffile.EXTRASAMPLE.ASSOCALPHA
"""An alpha that colours have been multiplied by."""
ALPHA = (ASSOCIATED, tifffile.EXTRASAMPLE.UNASSALPHA)
JPEG_CODES = (tifffile.COMPRESSION.OJPEG, tifffile.COMPRESSION.JPEG, tifffile.COMPRESSION.JPEG_LOSSY)
_FEW = 32
"""Columns of a page that are so few, and fewer than its rows and the pages, are channels."""
_MOST_TAGS = 4096  # of a page; tifffile takes more for damage

# Without any handler Python prints tifffile's log to stderr; what matters of it becomes a FileError.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


class _OneTiff(tifffile.TiffFile):  # type: ignore[misc]  # said to be final, but it has no option for this
    is_mmstack = False
    is_ndtiff = False
    """Both look for other files; what such a file says of its own planes it says as OME or ImageJ too."""


def open_tiff(path: Path) -> tifffile.TiffFile:
    """A TIFF, opened once it is known that its chain of pages ends; tifffile would follow one that leads back without end.

    Of an image in several files only this one is opened: it could name any file as the next.

    Raises:
        FileError: it leads back.
    """
    with open(path, "rb") as file:
        head, size = file.read(16), path.stat().st_size
        order, big = "<" if head[:1] == b"I" else ">", head[2:4] in (b"+\0", b"\0+")
        number, tag, place = ("Q", 20, "Q") if big else ("H", 12, "I")
        seen: set[int] = set()
        with suppress(struct.error):  # the end of the file
            (following,) = struct.unpack_from(order + place, head, 8 if big else 4)
            while 0 < following < size:
                if following in seen:
                    raise FileError(path, *DAMAGED)
                seen.add(following)
                file.seek(following)
                (tags,) = struct.unpack(order + number, file.read(struct.calcsize(number)))
                if tags > _MOST_TAGS:
                    break
                file.seek(tags * tag, os.SEEK_CUR)
                (following,) = struct.unpack(order + place, file.read(struct.calcsize(place)))
    return _OneTiff(path, _multifile=False)


def first_series(tif: tifffile.TiffFile) -> tifffile.TiffPageSeries:
    """What a TIFF holds first: an image, with its levels and planes.

    Raises:
        FileError: its description claims more planes than the file has bytes; to list them would fill the memory.
    """
    described, size = tif.ome_metadata or "", tif.filehandle.size
    for pixels in re.findall(r"<(?:\w+:)?Pixels\b[^>]*>", described):
        if math.prod(int(number) for number in re.findall(r"\bSize[ZCT]\s*=\s*[\"'](\d{1,18})", pixels)) > size:
            raise FileError(Path(tif.filehandle.path), *DAMAGED)
    if any(int(number) > size for number in re.findall(r"\b(?:PlaneCount|NumPlanes|IFD|First[ZCT])\s*=\s*[\"'](\d{1,18})", described)):
        raise FileError(Path(tif.filehandle.path), *DAMAGED)
    return tif.series[0]


def first_plane(path: Path, tif: tifffile.TiffFile, page: tifffile.TiffPage) -> NDArray[Any]:
    """(H, W, C) of the first page, with the pages that are its other channels.

    Raises:
        FileError: too many pixels or channels, or pixels beyond the end of the file.
    """
    series = first_series(tif)
    axes, shape = series.axes, series.shape
    if _channels_last(axes, shape):
        check_size(path, shape[0] * shape[1])
        check_channels(path, shape[2])
        return series.asarray()
    check_size(path, page.imagewidth * page.imagelength * page.imagedepth)
    end, segments = path.stat().st_size, list(zip(page.dataoffsets, page.databytecounts, strict=True))
    if len(segments) < math.prod(page.chunked) or any(offset + length > end for offset, length in segments):
        raise FileError(path, *DAMAGED)  # tifffile would fill up with zeros, libjpeg with grey
    stack, channel, count = _stacked(series, page)
    samples = max(count, page.samplesperpixel)
    check_channels(path, samples)
    if count > 1:
        step = math.prod(shape[channel + 1 : len(stack)])
        if len(series.pages) == math.prod(shape[: len(stack)]):
            planes = [other.asarray() for other in list(series.pages)[: count * step : step] if other is not None]
        else:  # one page stands for a contiguous series
            planes = list(series.asarray().reshape(-1, *page.shape)[: count * step : step])
        return np.stack(planes, axis=-1)
    plane = page.asarray()
    if page.imagedepth > 1:
        plane = plane.take(0, page.axes.index("Z"))
    if page.samplesperpixel == 1:
        return plane[..., None]
    return np.moveaxis(plane, 0, -1) if page.axes.startswith("S") else plane


def _channels_last(axes: str, shape: tuple[int, ...]) -> bool:
    """Whether it is (H, W, C) that tifffile.imwrite took for H pages of W x C."""
    return (axes == "YXC" or (axes == "QYX" and shape[2] <= _FEW)) and 1 < shape[2] < min(shape[:2])


def _stacked(series: tifffile.TiffPageSeries, page: tifffile.TiffPage) -> tuple[str, int, int]:
    """The axes along which pages are stacked, which of them is that of channels (negative: none), and how many of these there are."""
    stack = series.axes.removesuffix(page.axes) if series.axes.endswith(page.axes) else ""
    channel = 0 if stack == "Q" and series.shape[0] <= MAX_CHANNELS else stack.find("C")
    return stack, channel, series.shape[channel] if channel >= 0 and page.samplesperpixel == 1 else 1


def plane_count(tif: tifffile.TiffFile) -> int:
    """How many planes a TIFF has, as a stack, a time series or several images; pages that ``first_plane`` takes for channels count as one, smaller copies as none."""
    series, page = first_series(tif), tif.pages.first
    others = 0 if tif.is_svs else sum(not other.keyframe.is_reduced for other in tif.series[1:])  # an SVS has its label and a thumbnail
    if _channels_last(series.axes, series.shape):
        return 1 + others
    stack, _, channels = _stacked(series, page)
    return page.imagedepth * math.prod(series.shape[: len(stack)]) // channels + others


def channel_count(tif: tifffile.TiffFile) -> int:
    """How many channels ``first_plane`` finds in the first image, without one of alpha."""
    series, page = first_series(tif), tif.pages.first
    if _channels_last(series.axes, series.shape):
        return int(series.shape[2])
    if page.photometric == tifffile.PHOTOMETRIC.SEPARATED:
        return 3  # four inks are read as three colours
    _, _, channels = _stacked(series, page)
    return max(channels, page.samplesperpixel - bool(page.extrasamples and page.extrasamples[-1] in ALPHA))


def planes_and_channels(path: Path) -> tuple[int, int]:
    """How many planes a TIFF has, and how many channels the first one; (1, 1) where it cannot be told."""
    try:
        with open_tiff(path) as tif:
            return plane_count(tif), channel_count(tif)
    except Exception:  # whatever is wrong with it, the reading of its pixels will tell
        return 1, 1


def resolution(pixel_size: float | None) -> dict[str, Any]:
    """What tifffile is to write of a pixel size in µm; nothing where it is not known."""
    return {} if pixel_size is None else {"resolution": (1e4 / pixel_size, 1e4 / pixel_size), "resolutionunit": "CENTIMETER"}


def pixel_size_in(tif: tifffile.TiffFile) -> float | None:
    """µm per pixel that a TIFF states (OME, SVS, ImageJ or resolution tags), whether or not a microscope could have it; None where it states none, NaN where its unit is not known.

    Raises:
        ValueError: what it states is no number.
    """
    if tif.ome_metadata:
        described = html.unescape(tif.ome_metadata)
        sides = []
        for axis in "XY":
            unit = re.search(rf'PhysicalSize{axis}Unit="([^"]+)"', described)
            if found := re.search(rf'PhysicalSize{axis}="([0-9.eE+-]+)"', described):
                sides.append(float(found[1]) * MICRONS.get(unit[1] if unit else "µm", math.nan))
        return math.prod(sides) ** (1 / len(sides)) if sides else None  # of pixels that are not square, with which areas are right
    if tif.is_svs and (found := re.search(r"MPP = ([0-9.]+)", tif.pages.first.description)):
        return float(found[1])
    resolution = tif.pages.first.tags.get("XResolution")
    if resolution is None or not resolution.value[0]:
        return None
    step = resolution.value[1] / resolution.value[0]
    if tif.imagej_metadata:
        unit_name = str(tif.imagej_metadata.get("unit", "")).lower()
        return step * MICRONS[unit_name] if unit_name in MICRONS else None
    return float(step * {2: 25400.0, 3: 10000.0}.get(int(tif.pages.first.resolutionunit), math.nan))
