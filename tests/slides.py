"""Slides that the tests write themselves."""

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray


def halves(image: NDArray[Any], levels: int) -> list[NDArray[Any]]:
    """``image`` [H, W, C] and means of it over squares of 2, 4, ... pixels."""
    pyramid = [image]
    for _ in range(levels - 1):
        last = pyramid[-1]
        h, w = last.shape[0] // 2, last.shape[1] // 2
        pyramid.append(last[: 2 * h, : 2 * w].reshape(h, 2, w, 2, -1).mean((1, 3)).round().astype(image.dtype))
    return pyramid


def write_pyramid(path: Path, image: NDArray[Any], pixel_size: float | None = 0.25, levels: int = 3, tile: int = 64, **options: Any) -> Path:
    """A tiled TIFF of [H, W, 3] with smaller levels, its pixel size in the resolution tags."""
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        for level, pixels in enumerate(halves(image, levels)):
            resolution = {} if pixel_size is None else {"resolution": (1e4 / pixel_size / 2**level,) * 2, "resolutionunit": "CENTIMETER"}
            place = {"subifds": levels - 1} if level == 0 else {"subfiletype": 1}
            tif.write(pixels, tile=(tile, tile), photometric="rgb", metadata=None, **{"compression": "zlib", **options}, **resolution, **place)
    return path


def write_svs(path: Path, image: NDArray[Any], pixel_size: float = 0.25, levels: int = 2) -> Path:
    """A TIFF as Aperio's scanners write it: the full size, a thumbnail, then smaller levels, the first described in their words."""
    described = f"Aperio Image Library v11.2.1\r\n{image.shape[1]}x{image.shape[0]} (64x64) J/85|MPP = {pixel_size}|AppMag = {round(10 / pixel_size)}"
    with tifffile.TiffWriter(path) as tif:
        for level, pixels in enumerate(halves(image, levels)):
            words = described if level == 0 else described.split("|")[0]
            tif.write(pixels, tile=(64, 64), photometric="rgb", compression="jpeg", description=words, metadata=None)
            if level == 0:
                tif.write(halves(image, 3)[2], photometric="rgb", compression="jpeg", description=words, metadata=None)
    return path


def write_ome_zarr(path: Path, image: NDArray[Any], pixel_size: float | None = 0.25, levels: int = 3, version: str = "0.4") -> Path:
    """OME-Zarr of [H, W, C] with the axes c, y, x."""
    import zarr

    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    datasets = []
    for level, pixels in enumerate(halves(image, levels)):
        array = group.create_array(str(level), shape=pixels.shape[2:] + pixels.shape[:2], chunks=(1, 64, 64), dtype=pixels.dtype)
        array[:] = np.moveaxis(pixels, -1, 0)
        datasets.append({"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": [1.0, *[(pixel_size or 1) * 2**level] * 2]}]})
    unit = {} if pixel_size is None else {"unit": "micrometer"}
    axes = [{"name": "c", "type": "channel"}, *({"name": name, "type": "space", **unit} for name in "yx")]
    scales = [{"version": version, "axes": axes, "datasets": datasets}]
    if version == "0.4":
        group.attrs["multiscales"] = scales
    else:
        group.attrs["ome"] = {"version": version, "multiscales": scales}
    return path
