"""DSB 2018 (BBBC038v1): the training images of stage 1 of the 2018 Data Science Bowl, fluorescence and stained tissue.

Published layout (Broad Bioimage Benchmark Collection), also that of community copies with mended masks::

    <image id>/images/<image id>.png    RGBA, opaque, of many sizes
    <image id>/masks/*.png              one mask for each nucleus, 0 and 255

Masks are merged in the order of their names; where two overlap, the earlier one keeps the pixels. The layout does not tell stains apart, so this is one
domain of mixed looks: sort it before adapting. Images without masks (stage 1 test) become images without masks.
"""

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from celladapt.data.folder import shape_mismatch
from celladapt.data.images import read_mask
from celladapt.data.public import Item, PublicSet, Remote
from celladapt.data.public._layout import files
from celladapt.data.public._pixels import pixels
from celladapt.errors import FileError


def read(root: Path) -> list[Item]:
    """One domain; stems are the image ids."""
    masks: dict[Path, list[Path]] = {}
    images = []
    for path in files(root, ".png"):
        home = path.parent.parent
        if path.parent.name == "masks":
            masks.setdefault(home, []).append(path)
        elif path.parent.name == "images" and path.stem == home.name:
            images.append(path)
    labels = {home: partial(merge, paths) for home, paths in masks.items()}
    return [Item(path, path.stem, partial(pixels, path), labels.get(path.parent.parent)) for path in images]


def merge(masks: list[Path]) -> NDArray[np.int32]:
    """(H, W) labels 1, 2, ... from one mask for each nucleus; an empty mask gets none.

    Raises:
        FileError: a mask that cannot be read, or masks of different sizes.
    """
    labels = np.zeros_like(read_mask(masks[0]))
    number = 0
    for path in masks:
        nucleus = read_mask(path) > 0
        if nucleus.shape != labels.shape:
            raise FileError(path, *shape_mismatch(labels.shape, nucleus.shape))
        free = nucleus & (labels == 0)
        if free.any():
            number += 1
            labels[free] = number
    return labels


SET = PublicSet(
    what="fluorescence, H&E and brightfield from many laboratories; nuclei as instances",
    citation="Caicedo et al. Nucleus Segmentation across Imaging Experiments: the 2018 Data Science Bowl. Nature Methods 16, 1247-1253, 2019. "
    "doi:10.1038/s41592-019-0612-7. Image set BBBC038v1, Broad Bioimage Benchmark Collection (Ljosa et al., Nature Methods 9, 637, 2012)",
    licence="CC0 1.0",
    size="670 images of many sizes, from 256x256",
    homepage="https://bbbc.broadinstitute.org/BBBC038",
    layout="<id>/images/<id>.png beside <id>/masks/*.png",
    read=read,
    files=(
        Remote(
            "https://data.broadinstitute.org/bbbc/BBBC038/stage1_train.zip",
            "sha256:dcb6edc2690f137406638b2309581a71522c4dff19157d118453b448dcddcb68",
            "stage1_train.zip",
        ),
    ),
)
