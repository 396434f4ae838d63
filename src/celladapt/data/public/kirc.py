"""KIRC (Irshad et al.): H&E of kidney renal clear cell carcinoma.

Which of its patches the CellSegUDA experiments used is not published. The paper describes 400x400 patches with nuclei outlined by experts and by a crowd, but names no layout of its archive, and no copy with a stable
address is known. So any of these is read, at any depth::

    images/NAME.png  masks/NAME.png      the mask folder may also be called mask, labels, label, gt, ground_truth or annotations
    NAME.png  NAME_mask.png              in one folder; also _label, _gt, _annotation

PNG, TIFF or BMP (images also JPEG). Masks with one value beside 0 become 0 and 1, others keep their labels.
"""

import re
from functools import partial
from pathlib import Path

from celladapt.data.public import Item, PublicSet
from celladapt.data.public._layout import IMAGES, NO_MASK, files
from celladapt.data.public._pixels import binary, pixels
from celladapt.errors import FileError

MASK_FOLDERS = {"mask", "masks", "label", "labels", "gt", "ground_truth", "ground truth", "groundtruth", "annotation", "annotations"}
MASK_ENDING = re.compile(r"[_-](mask|label|gt|annotation)s?$", re.IGNORECASE)


def read(root: Path) -> list[Item]:
    """One domain; stems are those of the images."""
    images, masks = {}, {}
    for path in files(root, *IMAGES):
        in_mask_folder = path.parent.name.lower() in MASK_FOLDERS
        home = path.parent.parent if in_mask_folder else path.parent
        if in_mask_folder or MASK_ENDING.search(path.stem):
            masks[home, MASK_ENDING.sub("", path.stem)] = path
        else:
            images[path] = path.stem
    items = []
    for path, stem in images.items():
        mask = masks.get((path.parent, stem)) or masks.get((path.parent.parent, stem))
        if mask is None and masks:
            raise FileError(path, *NO_MASK)
        if mask is not None:
            items.append(Item(path, stem, partial(pixels, path), partial(binary, mask)))
    return items


SET = PublicSet(
    what="H&E of kidney renal clear cell carcinoma (TCGA), 40x; nuclei masks",
    citation="Irshad, Montaser-Kouhsari, Waltz, Bucur, Nowak, Dong, Knoblauch, Beck. Crowdsourcing Image Annotation for Nucleus Detection and "
    "Segmentation in Computational Pathology. Pacific Symposium on Biocomputing, 294-305, 2015. doi:10.1142/9789814644730_0029",
    licence="not stated in the paper; ask the authors",
    size="810 patches of 400x400",
    homepage="https://doi.org/10.1142/9789814644730_0029",
    layout="images/*.png beside masks/*.png, or NAME.png beside NAME_mask.png",
    read=read,
    ask="ask the authors of the paper, whose address is in it (https://doi.org/10.1142/9789814644730_0029)",
)
