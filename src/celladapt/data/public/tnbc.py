"""TNBC (Naylor et al.): H&E of triple negative breast cancer.

Published layout (Zenodo record 2579118, version 1.1 with corrected annotations)::

    TNBC_NucleiSegmentation/Slide_01/01_1.png ...   512x512 RGBA, opaque
    TNBC_NucleiSegmentation/GT_01/01_1.png ...      the same names, 0 = background, 255 = nucleus

The number of the folder is the patient. The ground truth is binary and stays so: 0 and 1. The later record 3552674 has the same layout with brain
tissue in the folders from 12 on; those are left out.
"""

import re
from functools import partial
from pathlib import Path

from celladapt.data.public import Item, PublicSet, Remote
from celladapt.data.public._layout import NO_MASK, files
from celladapt.data.public._pixels import binary, pixels
from celladapt.errors import FileError

PATIENTS = 11


def read(root: Path) -> list[Item]:
    """One domain; stems are those published, ``<patient>_<number>``."""
    items = []
    for path in files(root, ".png"):
        slide = re.fullmatch(r"slide_(\d+)", path.parent.name, re.IGNORECASE)
        if slide is None or int(slide[1]) > PATIENTS:
            continue
        mask = path.parent.parent / f"GT_{slide[1]}" / path.name
        if not mask.exists():
            raise FileError(path, *NO_MASK)
        items.append(Item(path, path.stem, partial(pixels, path), partial(binary, mask)))
    return items


SET = PublicSet(
    what="H&E of triple negative breast cancer, 40x; binary nuclei masks",
    citation="Naylor, Laé, Reyal, Walter. Segmentation of Nuclei in Histopathology Images by Deep Regression of the Distance Map. "
    "IEEE Transactions on Medical Imaging 38(2), 448-459, 2019. doi:10.1109/TMI.2018.2865709. Data: doi:10.5281/zenodo.2579118",
    licence="CC BY 4.0",
    size="50 images of 512x512 from 11 patients, 25 MB",
    homepage="https://zenodo.org/records/2579118",
    layout="Slide_XX/*.png beside GT_XX/*.png",
    read=read,
    files=(
        Remote(
            "https://zenodo.org/records/2579118/files/TNBC_NucleiSegmentation.zip?download=1",
            "md5:1605712a752b201b57eacc8f866adb4f",
            "TNBC_NucleiSegmentation.zip",
        ),
    ),
    group=r"^(\d+)_",
)
