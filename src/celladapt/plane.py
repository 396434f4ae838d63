"""Nuclei in one plane of an image with any number of dimensions: what a viewer needs of this package, without a viewer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celladapt.data.images import image_of
from celladapt.errors import InputError
from celladapt.instances import to_instances
from celladapt.loading import loaded_model
from celladapt.model import Predictor

PEAK_BYTES = 80
"""Of memory per pixel of a plane, at most: deep colour that is being stretched."""
PIXEL_SIZE_RATIO = 1.2
"""Above it a model sees nuclei of another size than it was trained with."""

Where = tuple[int | slice, ...]
"""Index of a plane: two whole axes, a number for each other one."""


@dataclass(frozen=True)
class Found:
    """What a model found in one plane."""

    where: Where
    labels: NDArray[np.int32]
    """[H, W]: 0 background, nuclei numbered from 1."""
    probability: NDArray[np.float32]
    """[H, W] in [0, 1]: probability of nucleus."""
    warning: str = ""
    """One sentence, or nothing."""


def plane_at(shape: Sequence[int], point: Sequence[float], displayed: Sequence[int]) -> Where:
    """Which plane of an image a viewer shows.

    Args:
        shape: of the image, without a channel axis.
        point: what is looked at, in pixels of the image; one number for each axis, those of ``displayed`` are ignored.
        displayed: the axes on the screen; the last two are taken, or those of the image where one of them is none of its axes.
    """
    axes = [axis for axis in displayed[-2:] if 0 <= axis < len(shape)]
    if len(axes) < 2:
        axes = [len(shape) - 2, len(shape) - 1]
    # An image of two planes beside one of twenty: where the viewer is past its end, its last plane is the nearest.
    return tuple(slice(None) if axis in axes else int(np.clip(round(at), 0, n - 1)) for axis, (at, n) in enumerate(zip(point, shape, strict=True)))


def find_nuclei(
    model_path: Path, data: Any, where: Where, name: str, threshold: float, min_size: int, pixel_size: float | None, free: float
) -> Found:
    """Segment one plane with the model at ``model_path``, which stays loaded for the next call.

    Args:
        data: (..., H, W) or (..., H, W, 3 or 4): NumPy, dask, zarr or whatever is indexed like them.
        where: the plane, as `plane_at` says it.
        name: of the image, for errors.
        pixel_size: of the plane in µm, where it is known.
        free: bytes of memory that may be used.

    Raises:
        InputError: no model there, a plane too large for the memory, or values that make no image.
    """
    model = loaded_model(model_path)
    image = read_plane(data, where, name, free)
    probability = model.probability(image)
    return Found(where, to_instances(probability, threshold, min_size), probability, other_magnification(model, pixel_size, name))


def read_plane(data: Any, where: Where, name: str, free: float) -> NDArray[Any]:
    """(H, W, 3) uint8 or uint16 of one plane, stretched as `data.images.read_image` stretches files.

    Raises:
        InputError: see `find_nuclei`.
    """
    sides = [int(n) for n, at in zip(data.shape, where, strict=False) if isinstance(at, slice)]
    needed = math.prod(sides) * PEAK_BYTES
    if needed > free:
        raise InputError(
            f"{name} is {sides[1]} x {sides[0]} pixels, which take {needed / 1e9:.1f} GB of memory where {free / 1e9:.1f} GB are free; open a part of it."
        )
    return image_of(np.asarray(data[where]), name)


def blank(shape: Sequence[int], dtype: type[np.generic], name: str) -> NDArray[Any]:
    """Zeros, which take memory only as planes are filled.

    Raises:
        InputError: the system does not promise that much.
    """
    try:
        return np.zeros(shape, dtype)
    except MemoryError:
        raise InputError(f"The nuclei of all planes of {name} do not fit into memory; open fewer planes of it.") from None


def newest_model(runs: Path) -> Path | None:
    """Of the run folders in ``runs`` the one whose model was written last."""
    files = sorted(runs.glob("*/model.safetensors"), key=lambda file: file.stat().st_mtime_ns)
    return files[-1].parent if files else None


def other_magnification(model: Predictor, pixel_size: float | None, name: str) -> str:
    """A sentence with both pixel sizes in µm where they are known and far apart, otherwise nothing."""
    trained = model.pixel_size
    if trained is None or not pixel_size:
        return ""
    ratio = pixel_size / trained
    if max(ratio, 1 / ratio) <= PIXEL_SIZE_RATIO:
        return ""
    much = f"{max(ratio, 1 / ratio):.1f} times {'smaller' if ratio > 1 else 'larger'}"
    return f"{name} has {pixel_size:.3g} µm per pixel and the model was trained at {trained:.3g}: nuclei look {much} to it, so check what it found."
