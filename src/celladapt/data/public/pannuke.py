"""PanNuke: H&E of 19 tissues.

Published layout (three archives, one a fold)::

    Fold 1/images/fold1/images.npy    (N, 256, 256, 3), 0 to 255, stored as floats
    Fold 1/images/fold1/types.npy     (N,) text, the tissue
    Fold 1/masks/fold1/masks.npy      (N, 256, 256, 6): instance numbers of five kinds of nuclei, then the background

Written as DST/<tissue>, for example DST/bile-duct; stems are fold1_00000 and so on. Numbers are given anew over the five kinds; where two kinds claim a
pixel, the first keeps it. The arrays are mapped, not read into memory, and nothing in them is run. The layout does not tell patients.
"""

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celladapt.data.public import Item, PublicSet, Remote
from celladapt.data.public._layout import files, slug
from celladapt.data.public._pixels import array, whole
from celladapt.errors import FileError

KINDS = 5


def read(root: Path) -> list[Item]:
    """Tissues are domains; folds are told by the number in the folder's name."""
    folds: dict[int, dict[str, Path]] = {}
    for path in files(root, ".npy"):
        numbers = re.findall(r"fold[ _-]*(\d+)", path.relative_to(root).as_posix(), re.IGNORECASE)
        if path.stem in ("images", "masks", "types"):
            folds.setdefault(int(numbers[-1]) if numbers else 1, {})[path.stem] = path
    return [item for number, paths in sorted(folds.items()) for item in _fold(number, paths)]


def _fold(number: int, paths: dict[str, Path]) -> list[Item]:
    for wanted in ("images", "masks", "types"):
        if wanted not in paths:
            raise FileError(next(iter(paths.values())), f"is of a fold without {wanted}.npy", "unpack the whole archive of the fold")
    images, masks, types = (array(paths[key]) for key in ("images", "masks", "types"))
    fits = images.ndim == masks.ndim == 4 and types.ndim == 1 and len(images) == len(masks) == len(types)
    if not fits or images.shape[3] != 3 or masks.shape[3] <= KINDS or types.dtype.kind != "U":
        problem = f"does not fit its fold: images {images.shape}, masks {masks.shape}, types {types.shape} {types.dtype}"
        raise FileError(paths["images"], problem, "download the fold again")
    return [
        Item(
            paths["images"],
            f"fold{number}_{index:05d}",
            partial(image, images, index, paths["images"]),
            partial(labels, masks, index, paths["masks"]),
            slug(str(types[index])),
        )
        for index in range(len(images))
    ]


def image(stack: NDArray[Any], index: int, path: Path) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 from whole numbers 0 to 255 of any type.

    Raises:
        FileError: other values.
    """
    values = np.asarray(stack[index])
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 255 and (values == np.rint(values)).all()):
        raise FileError(path, f"has values in image {index} that are no whole numbers from 0 to 255", "download the fold again")
    return values.astype(np.uint8)


def labels(stack: NDArray[Any], index: int, path: Path) -> NDArray[np.int32]:
    """(H, W) labels from the first five channels.

    Raises:
        FileError: values that are no labels.
    """
    merged = np.zeros(stack.shape[1:3], np.int32)
    number = 0
    for kind in range(KINDS):
        channel = whole(np.asarray(stack[index, :, :, kind]), path)
        for nucleus in np.unique(channel[channel > 0]):
            free = (channel == nucleus) & (merged == 0)
            if free.any():
                number += 1
                merged[free] = number
    return merged


_FOLDER = "https://warwick.ac.uk/fac/cross_fac/tia/data/pannuke"

SET = PublicSet(
    what="H&E of 19 tissues, 40x; nuclei as instances, semi-automatic",
    citation="Gamper et al. PanNuke: An Open Pan-Cancer Histology Dataset for Nuclei Instance Segmentation and Classification. European Congress on Digital "
    "Pathology, 11-19, 2019; and Gamper et al. PanNuke Dataset Extension, Insights and Baselines. arXiv:2003.10778, 2020",
    licence="CC BY-NC-SA 4.0",
    size="7901 images of 256x256; unpacking takes tens of GB for a while",
    homepage=_FOLDER,
    layout="images.npy, types.npy and masks.npy in folders named after the fold",
    read=read,
    files=(
        Remote(f"{_FOLDER}/fold_1.zip", "sha256:6e19ad380300e8ce9480f9ab6a14cc91fa4b6a511609b40e3d70bdf9c881ed0b", "fold_1.zip"),
        Remote(f"{_FOLDER}/fold_2.zip", "sha256:5bc540cc509f64b5f5a274d6e5a245527dbd3e6d3155d43555115c5d54709b07", "fold_2.zip"),
        Remote(f"{_FOLDER}/fold_3.zip", "sha256:c14d372981c42f611ebc80afad01702b89cad8c1b3089daa31931cf5a4b1a39d", "fold_3.zip"),
    ),
)
