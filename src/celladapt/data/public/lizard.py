"""Lizard: H&E of colon from five older data sets, annotated anew.

Published layout (three archives)::

    Lizard_Images1/*.png, Lizard_Images2/*.png   consep_1.png, crag_1.png, dpath_1.png, glas_1.png, pannuke_1.png ...
    Lizard_Labels/Labels/*.mat                   inst_map, and classes that are not read
    Lizard_Labels/info.csv                       not read; overlays are left out

Written as DST/<source>: consep, crag, dpath, glas, pannuke, after the word before the underscore. The layout does not tell patients.
"""

from functools import partial
from pathlib import Path

from celladapt.data.public import Item, PublicSet
from celladapt.data.public._layout import NO_MASK, below, files, slug
from celladapt.data.public._pixels import mat, pixels
from celladapt.errors import FileError


def read(root: Path) -> list[Item]:
    """The older data sets are domains; stems are those published."""
    labels = {path.stem: path for path in files(root, ".mat") if path.parent.name.lower() == "labels"}
    items = []
    for path in files(root, ".png") if labels else []:
        if "overlay" in below(root, path):
            continue
        if path.stem not in labels:
            raise FileError(path, *NO_MASK)
        items.append(Item(path, path.stem, partial(pixels, path), partial(mat, labels[path.stem]), slug(path.stem.split("_")[0])))
    return items


SET = PublicSet(
    what="H&E of colon from five data sets, 20x; nuclei as instances, semi-automatic",
    citation="Graham et al. Lizard: A Large-Scale Dataset for Colonic Nuclear Instance Segmentation and Classification. IEEE/CVF International Conference on "
    "Computer Vision Workshops, 684-693, 2021. arXiv:2108.11195",
    licence="CC BY-NC-SA 4.0",
    size="238 images of many sizes",
    homepage="https://warwick.ac.uk/fac/cross_fac/tia/data/lizard",
    layout="Lizard_Images1/*.png, Lizard_Images2/*.png and Labels/*.mat",
    read=read,
    ask="its page, https://warwick.ac.uk/fac/cross_fac/tia/data/lizard, asks for a sign-in; without one, ask the TIA Centre (tia@warwick.ac.uk) or take "
    "the copy at https://www.kaggle.com/datasets/aadimator/lizard-dataset with a Kaggle account",
)
