"""BBBC039v1: U2OS nuclei of a chemical screen, Hoechst fluorescence.

Published layout (Broad Bioimage Benchmark Collection)::

    images/IXMtest_A02_s1_w1*.tif    520x696, 16-bit grey
    masks/IXMtest_A02_s1_w1*.png     RGBA; the red channel codes the nuclei

Colours are used again for nuclei that do not touch, so a nucleus is a connected piece (8 neighbours) of one value of the first channel: the reading of
the authors' own script. Images stay 16 bits with their values. A02 in a name is the well.
"""

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from celladapt.data.images import decode
from celladapt.data.public import Item, PublicSet, Remote
from celladapt.data.public._layout import NO_MASK, files
from celladapt.data.public._pixels import pixels
from celladapt.errors import FileError


def read(root: Path) -> list[Item]:
    """One domain; stems are those published."""
    masks = {path.stem: path for path in files(root, ".png") if path.parent.name == "masks"}  # of another archive, so perhaps in another place
    items = []
    for path in files(root, ".tif"):
        if path.stem.startswith("IXMtest"):
            if path.stem not in masks:
                raise FileError(path, *NO_MASK)
            items.append(Item(path, path.stem, partial(pixels, path), partial(pieces, masks[path.stem])))
    return items


def pieces(path: Path) -> NDArray[np.int32]:
    """(H, W) labels from a colour-coded mask.

    Raises:
        FileError: the mask cannot be read.
    """
    from skimage.measure import label

    labels = label(decode(path).pixels[..., 0], background=0, connectivity=2)  # type: ignore[no-untyped-call]
    return np.asarray(labels, np.int32)


SET = PublicSet(
    what="Hoechst fluorescence of U2OS cells in a chemical screen, 16 bits; nuclei as instances",
    citation="Caicedo et al. Evaluation of Deep Learning Strategies for Nucleus Segmentation in Fluorescence Images. Cytometry Part A 95(9), 952-965, "
    "2019. doi:10.1002/cyto.a.23863. Image set BBBC039v1, Broad Bioimage Benchmark Collection (Ljosa et al., Nature Methods 9, 637, 2012)",
    licence="CC0 1.0",
    size="200 images of 696x520, 81 MB",
    homepage="https://bbbc.broadinstitute.org/BBBC039",
    layout="images/IXMtest*.tif and masks/IXMtest*.png",
    read=read,
    files=(
        Remote(
            "https://data.broadinstitute.org/bbbc/BBBC039/images.zip",
            "sha256:6f30a5d4fe38c928ded972704f085975f8dc0d65d9aa366df00e5a9d449fddd7",
            "images.zip",
        ),
        Remote(
            "https://data.broadinstitute.org/bbbc/BBBC039/masks.zip",
            "sha256:f9e6043d8ca56344a4886f96a700d804d6ee982f31e2b2cd3194af2a053c2710",
            "masks.zip",
        ),
    ),
    group=r"_([A-P]\d\d)_s\d",
)
