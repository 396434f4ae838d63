"""Images of TCGA slides with Aperio outlines, by organ: what MoNuSeg and Kumar share."""

from functools import partial
from pathlib import Path

from celladapt.data.public._aperio import outlines
from celladapt.data.public._layout import files
from celladapt.data.public._pixels import pixels
from celladapt.data.public._set import Item, Remote
from celladapt.errors import FileError

ORGANS = {
    "breast": "A7-A13E-01Z-00-DX1 A7-A13F-01Z-00-DX1 AR-A1AK-01Z-00-DX1 AR-A1AS-01Z-00-DX1 E2-A1B5-01Z-00-DX1 E2-A14V-01Z-00-DX1",
    "kidney": "B0-5711-01Z-00-DX1 HE-7128-01Z-00-DX1 HE-7129-01Z-00-DX1 HE-7130-01Z-00-DX1 B0-5710-01Z-00-DX1 B0-5698-01Z-00-DX1",
    "liver": "18-5592-01Z-00-DX1 38-6178-01Z-00-DX1 49-4488-01Z-00-DX1 50-5931-01Z-00-DX1 21-5784-01Z-00-DX1 21-5786-01Z-00-DX1",
    "prostate": "G9-6336-01Z-00-DX1 G9-6348-01Z-00-DX1 G9-6356-01Z-00-DX1 G9-6363-01Z-00-DX1 CH-5767-01Z-00-DX1 G9-6362-01Z-00-DX1",
    "bladder": "DK-A2I6-01A-01-TS1 G2-A2EK-01A-02-TSB",
    "colon": "AY-A8YK-01A-01-TS1 NH-A8F7-01A-01-TS1",
    "stomach": "KB-A93J-01A-01-TS1 RD-A8N9-01A-01-TS1",
}
"""The organs of the 30 images of Kumar et al. as the organisers list them. TCGA's own codes call those listed as liver lung."""
ORGAN = {f"TCGA-{case}": organ for organ, cases in ORGANS.items() for case in cases.split()}
PATIENT = r"^TCGA-\w+-\w+"
TRAINING = Remote(
    "https://drive.google.com/uc?export=download&id=1ZgqFJomqQGNnsx7w7QBzQQMVA16lbVCA",
    "sha256:25d3d3185bb2970b397cafa72eb664c9b4d24294aee382e7e3df9885affce742",
    "MoNuSeg_2018_Training_Data.zip",
)
"""The organisers' training archive: the 30 images of Kumar et al. and 7 that were added later."""


def outlined(root: Path) -> list[tuple[Path, Item]]:
    """Every ``TCGA-*`` TIFF with the XML of its stem, wherever the two are; the domain is the organ, or ``other`` where none is listed.

    Raises:
        FileError: an image without an XML file.
    """
    annotations = {path.stem: path for path in files(root, ".xml")}
    found = []
    images = [path for path in files(root, ".tif", ".tiff") if path.stem.startswith("TCGA-")]
    for path in images if annotations else []:
        if path.stem not in annotations:
            raise FileError(path, "has no .xml file of the same name", "unpack the images and the annotations into one folder")
        item = Item(path, path.stem, partial(pixels, path), partial(outlines, annotations[path.stem], path), ORGAN.get(path.stem, "other"))
        found.append((path, item))
    return found
