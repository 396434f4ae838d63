"""CPM-17: H&E of four kinds of tumours, from a MICCAI challenge of 2017.

Layout of the copy that HoVer-Net's authors publish::

    cpm17/train/Images/image_00.png ...   32 images
    cpm17/train/Labels/image_00.mat ...   inst_map (older copies: *.npy)
    cpm17/test/...                        32 images, also counted from 00

One domain; stems are train_image_00, test_image_00 and so on. The layout tells neither tumours nor patients.
"""

from celladapt.data.public import PublicSet
from celladapt.data.public._hovernet import labelled

SET = PublicSet(
    what="H&E of four kinds of tumours (TCGA); nuclei as instances",
    citation="Vu et al. Methods for Segmentation and Classification of Digital Microscopy Tissue Images. Frontiers in Bioengineering and Biotechnology 7, "
    "53, 2019. doi:10.3389/fbioe.2019.00053",
    licence="not stated with the data",
    size="64 images",
    homepage="https://drive.google.com/drive/folders/1l55cv3DuY-f7-JotDN7N5nbNnjbLWchK",
    layout="train/Images/*.png beside train/Labels/*.mat, and the same below test",
    read=labelled,
    ask="download the folder cpm17 in a browser from https://drive.google.com/drive/folders/1l55cv3DuY-f7-JotDN7N5nbNnjbLWchK (HoVer-Net's authors)",
)
