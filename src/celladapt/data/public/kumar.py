"""Kumar et al. 2017: H&E of seven organs with outlined nuclei.

Published layout::

    Tissue Images/TCGA-*.tif (or .tiff)    30 images of 1000x1000 RGB
    Annotations/TCGA-*.xml                 Aperio ImageScope outlines

The authors now give the images out inside MoNuSeg's training archive, where those first published under a wrong name are corrected; `fetch` takes that
one and leaves the seven later images out. Written as DST/<organ>: breast, kidney, liver, prostate, bladder, colon, stomach. Where outlines overlap, the
earlier one keeps the pixels.
"""

from pathlib import Path

from celladapt.data.public import Item, PublicSet
from celladapt.data.public._tcga import ORGAN, PATIENT, TRAINING, outlined


def read(root: Path) -> list[Item]:
    """Organs are domains; stems are the TCGA names."""
    return [item for path, item in outlined(root) if path.stem in ORGAN]


SET = PublicSet(
    what="H&E of seven organs (TCGA), 40x; outlined nuclei",
    citation="Kumar, Verma, Sharma, Bhargava, Vahadane, Sethi. A Dataset and a Technique for Generalized Nuclear Segmentation for Computational "
    "Pathology. IEEE Transactions on Medical Imaging 36(7), 1550-1560, 2017. doi:10.1109/TMI.2017.2677499",
    licence="CC BY-NC-SA 4.0",
    size="30 images of 1000x1000",
    homepage="https://monuseg.grand-challenge.org/Data/",
    layout="TCGA-*.tif with TCGA-*.xml of the same names",
    read=read,
    files=(TRAINING,),
    group=PATIENT,
)
