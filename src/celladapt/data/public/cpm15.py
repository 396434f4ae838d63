"""CPM-15: H&E of tumours, from a MICCAI challenge of 2015.

Layout of the copy that HoVer-Net's authors publish::

    cpm15/Images/*.png   15 images
    cpm15/Labels/*.mat   inst_map (older copies: *.npy)

One domain; the layout does not tell patients.
"""

from celladapt.data.public import PublicSet
from celladapt.data.public._hovernet import labelled

SET = PublicSet(
    what="H&E of tumours (TCGA), 20x and 40x; nuclei as instances",
    citation="Vu et al. Methods for Segmentation and Classification of Digital Microscopy Tissue Images. Frontiers in Bioengineering and Biotechnology 7, "
    "53, 2019. doi:10.3389/fbioe.2019.00053",
    licence="not stated with the data",
    size="15 images",
    homepage="https://drive.google.com/drive/folders/1l55cv3DuY-f7-JotDN7N5nbNnjbLWchK",
    layout="Images/*.png beside Labels/*.mat",
    read=labelled,
    ask="download the folder cpm15 in a browser from https://drive.google.com/drive/folders/1l55cv3DuY-f7-JotDN7N5nbNnjbLWchK (HoVer-Net's authors)",
)
