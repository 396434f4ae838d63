"""CryoNuSeg: H&E of frozen sections of ten organs.

Published layout (Kaggle)::

    tissue images/Human_AdrenalGland_01.tif ...                               30 images of 512x512 RGB
    Annotator 1 (biologist)/label masks modify/Human_AdrenalGland_01.tif ...  instance labels
    ... and the same for a second round of annotator 1 and for annotator 2

The first mark-up of annotator 1 is taken. "label masks modify" gives a pixel that two nuclei share to one of them. One domain: three images an organ
are too few for more, and each is of another patient, so there is nothing to group.
"""

from functools import partial
from pathlib import Path

from celladapt.data.images import read_mask
from celladapt.data.public import Item, PublicSet
from celladapt.data.public._layout import NO_MASK, below, files
from celladapt.data.public._pixels import pixels
from celladapt.errors import FileError

MASKS = ["annotator 1 (biologist)", "label masks modify"]


def read(root: Path) -> list[Item]:
    """One domain; stems are those published."""
    found = files(root, ".tif")
    masks = {path.stem: path for path in found if below(root, path)[-2:] == MASKS}
    items = []
    for path in found if masks else []:
        if path.parent.name.lower() == "tissue images":
            if path.stem not in masks:
                raise FileError(path, *NO_MASK)
            items.append(Item(path, path.stem, partial(pixels, path), partial(read_mask, masks[path.stem])))
    return items


SET = PublicSet(
    what="H&E of frozen sections of ten organs (TCGA), 40x; nuclei as instances",
    citation="Mahbod, Schaefer, Bancher, Löw, Dorffner, Ecker, Ellinger. CryoNuSeg: A Dataset for Nuclei Instance Segmentation of Cryosectioned "
    "H&E-Stained Histological Images. Computers in Biology and Medicine 132, 104349, 2021. doi:10.1016/j.compbiomed.2021.104349",
    licence="stated on the Kaggle page",
    size="30 images of 512x512",
    homepage="https://www.kaggle.com/datasets/ipateam/segmentation-of-nuclei-in-cryosectioned-he-images",
    layout="'tissue images/*.tif' and 'Annotator 1 (biologist)/label masks modify/*.tif'",
    read=read,
    ask="download it with a Kaggle account from https://www.kaggle.com/datasets/ipateam/segmentation-of-nuclei-in-cryosectioned-he-images",
)
