"""Slides that the tests write themselves, and a model to see them with."""

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn

from celladapt.data.normalise import Normalisation
from celladapt.model import Model
from celladapt.networks import Segmenter, UNet

NORMALISATION = Normalisation((0.5, 0.4, 0.6), (0.2, 0.3, 0.25))


def spread_model(about: dict[str, Any] | None = None) -> Model:
    """A segmenter with random weights and random batch-normalisation statistics, whose probabilities are spread over most of [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Segmenter(4)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.05, 0.2, generator=generator)
    network.eval()
    with torch.no_grad():
        logits = UNet.forward(network, NORMALISATION(picture(0, 128, 128))[None])
        network.head.bias -= logits.mean()
        network.head.weight *= 2 / logits.std()
        network.head.bias *= 2 / logits.std()
    return Model(network, NORMALISATION, about or {"method": "none"}, "float32")


def picture(seed: int, h: int, w: int, dtype: type = np.uint8) -> NDArray[Any]:
    """Blurred noise, so that there is something at every scale."""
    rng = np.random.default_rng(seed)
    field = sum(ndimage.gaussian_filter(rng.normal(size=(h, w, 3)), (s, s, 0), mode="nearest") * s for s in (1, 4, 16))
    unit = (field - field.min()) / (np.ptp(field) or 1)
    return (unit * np.iinfo(dtype).max).round().astype(dtype)  # type: ignore[type-var]


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
