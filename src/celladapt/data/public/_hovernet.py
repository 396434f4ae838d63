"""The layout in which HoVer-Net's authors publish sets: ``Images/`` beside ``Labels/`` with one label file an image."""

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from celladapt.data.public._layout import beside
from celladapt.data.public._pixels import array, mat, pixels, whole
from celladapt.data.public._set import Item


def labelled(root: Path) -> list[Item]:
    """Every ``Images/*.png`` (or TIFF) with ``Labels/*.mat`` (variable ``inst_map``) or, in older copies, ``Labels/*.npy``.

    Images below a folder ``train`` or ``test`` get its name before theirs where they do not begin with it, as the two count from zero each.

    Raises:
        FileError: an image without a label file.
    """
    items = []
    for path, annotation in beside(root, "images", "labels", (".png", ".tif", ".tiff"), (".mat", ".npy")):
        part = path.parent.parent.name.lower()
        stem = path.stem if part not in ("train", "test") or path.stem.lower().startswith(part) else f"{part}_{path.stem}"
        labels = partial(mat, annotation) if annotation.suffix.lower() == ".mat" else partial(_npy, annotation)
        items.append(Item(path, stem, partial(pixels, path), labels))
    return items


def _npy(path: Path) -> NDArray[np.int64]:
    return whole(array(path), path)
