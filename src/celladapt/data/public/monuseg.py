"""MoNuSeg 2018: H&E of many organs with outlined nuclei.

Published layout (two archives on the challenge's page)::

    MoNuSeg 2018 Training Data/Tissue Images/TCGA-*.tif    37 images of 1000x1000 RGB
    MoNuSeg 2018 Training Data/Annotations/TCGA-*.xml      Aperio ImageScope outlines
    MoNuSegTestData/TCGA-*.tif, TCGA-*.xml                 14 images

Written as DST/<organ> for the 30 training images whose organ the organisers list (breast, kidney, liver, prostate, bladder, colon, stomach), DST/other
for the 7 training images added later, and DST/test for the test images (those in a folder named Test..., MoNuSegTestData or the like). Where outlines overlap, the
earlier one keeps the pixels, as in the organisers' script.
"""

import re
from dataclasses import replace
from pathlib import Path

from celladapt.data.public import Item, PublicSet, Remote
from celladapt.data.public._layout import below
from celladapt.data.public._tcga import PATIENT, TRAINING, outlined


def read(root: Path) -> list[Item]:
    """Organs, ``other`` and ``test`` are domains; stems are the TCGA names."""
    return [replace(item, domain="test") if is_test(root, path) else item for path, item in outlined(root)]


def is_test(root: Path, path: Path) -> bool:
    """Whether a folder of the path, ``root`` included, is one of test data by its name."""
    return any(re.search(r"\btest|test\s?(ing|data)", part) for part in [root.name.lower(), *below(root, path)])


SET = PublicSet(
    what="H&E of many organs (TCGA), 40x; outlined nuclei",
    citation="Kumar et al. A Multi-Organ Nucleus Segmentation Challenge. IEEE Transactions on Medical Imaging 39(5), 1380-1391, 2020. "
    "doi:10.1109/TMI.2019.2947628; and Kumar et al., doi:10.1109/TMI.2017.2677499",
    licence="CC BY-NC-SA 4.0",
    size="37 training and 14 test images of 1000x1000",
    homepage="https://monuseg.grand-challenge.org/Data/",
    layout="TCGA-*.tif with TCGA-*.xml of the same names",
    read=read,
    files=(
        TRAINING,
        Remote(
            "https://drive.google.com/uc?export=download&id=1NKkSQ5T0ZNQ8aUhh0a8Dt2YKYCQXIViw",
            "sha256:13e522387ae8b1bcc0530e13ff9c7b4d91ec74959ef6f6e57747368d7ee6f88a",
            "MoNuSegTestData.zip",
        ),
    ),
    group=PATIENT,
)
