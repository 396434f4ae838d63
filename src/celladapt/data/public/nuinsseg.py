"""NuInsSeg: H&E of 31 human and mouse organs.

Published layout (Zenodo record 10518968)::

    human bladder/tissue images/human_bladder_01.png ...        512x512 RGB
    human bladder/label masks modify/human_bladder_01.tif ...   instance labels
    ... 31 organs, with further folders that are not read

Written as DST/<organ>, for example DST/human-bladder. "label masks modify" gives a pixel that two nuclei share to one of them; it is what the authors
say to evaluate with. The images of an organ come from one slide: a split within an organ is no split by patient.
"""

from functools import partial
from pathlib import Path

from celladapt.data.images import read_mask
from celladapt.data.public import Item, PublicSet, Remote
from celladapt.data.public._layout import beside, slug
from celladapt.data.public._pixels import pixels


def read(root: Path) -> list[Item]:
    """Organs are domains; stems are those published."""
    pairs = beside(root, "tissue images", "label masks modify", (".png",), (".tif",))
    return [Item(path, path.stem, partial(pixels, path), partial(read_mask, mask), slug(path.parent.parent.name)) for path, mask in pairs]


SET = PublicSet(
    what="H&E of 31 human and mouse organs; nuclei as instances",
    citation="Mahbod et al. NuInsSeg: A Fully Annotated Dataset for Nuclei Instance Segmentation in H&E-Stained Histological Images. "
    "Scientific Data 11, 295, 2024. doi:10.1038/s41597-024-03117-2. Data: doi:10.5281/zenodo.10518968",
    licence="CC BY 4.0",
    size="665 images of 512x512, 1.6 GB",
    homepage="https://zenodo.org/records/10518968",
    layout="<organ>/tissue images/*.png beside <organ>/label masks modify/*.tif",
    read=read,
    files=(Remote("https://zenodo.org/records/10518968/files/NuInsSeg.zip?download=1", None, "NuInsSeg.zip"),),
)
