"""Read published images and annotations as they are, without stretching values."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celladapt.data.images import as_image, decode, read_mask
from celladapt.errors import FileError


def pixels(path: Path) -> NDArray[Any]:
    """(H, W, 3) uint8, or (H, W) uint16 of a deep grey image with its values as stored.

    Raises:
        FileError: see `celladapt.data.images.read_image`; also deep colour, which no set here has.
    """
    raster = decode(path)
    if raster.bits <= 8:
        return as_image(raster)
    if raster.pixels.dtype == np.uint16 and raster.pixels.shape[2] == 1:
        return raster.pixels[..., 0]
    raise FileError(path, f"holds {raster.pixels.dtype} values in {raster.channels} channels", "use the file as it was published")


def binary(path: Path) -> NDArray[np.int32]:
    """(H, W) with 0 and 1 where the mask has one value beside 0, and its labels where it has more."""
    labels = read_mask(path)
    return (labels > 0).astype(np.int32) if np.count_nonzero(np.unique(labels)) == 1 else labels


def whole(values: NDArray[Any], path: Path) -> NDArray[np.int64]:
    """Labels stored as any number, (H, W).

    Raises:
        FileError: not two axes, or values that are no labels.
    """
    if values.ndim != 2 or values.dtype.kind not in "buif":
        raise FileError(path, f"holds {values.dtype} values of shape {values.shape} where labels are expected", "use the file as it was published")
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.rint(values)).all()):
        raise FileError(path, "has labels that are no whole numbers", "use the file as it was published")
    if values.size and values.min() < 0:
        raise FileError(path, "has negative labels", "use the file as it was published")
    return values.astype(np.int64)


def mat(path: Path, key: str = "inst_map") -> NDArray[np.int64]:
    """The label image ``key`` of a MATLAB file, (H, W).

    Raises:
        FileError: not a MATLAB file, no such variable, or no labels in it.
    """
    from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=(key,))
    except Exception as error:  # on damaged bytes the reader raises dozens of types
        raise FileError(path, "cannot be read as a MATLAB file", "download it again") from error
    if key not in content:
        raise FileError(path, f"has no variable {key}", "use the file as it was published")
    return whole(content[key], path)


def array(path: Path) -> NDArray[Any]:
    """A ``.npy`` file, mapped instead of read; nothing in it is run.

    Raises:
        FileError: not an array file, or one that holds Python objects.
    """
    try:
        return np.asanyarray(np.lib.format.open_memmap(path, mode="r"))
    except (ValueError, OSError, EOFError) as error:
        objects = "object" in str(error).lower()
        problem = "holds Python objects, which could run any program when opened" if objects else "is damaged or no NumPy array"
        raise FileError(path, problem, "download it again") from error
