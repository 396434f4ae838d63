"""CoNSeP: H&E of colorectal adenocarcinoma.

Published layout::

    CoNSeP/Train/Images/train_1.png ...   27 images of 1000x1000 RGB
    CoNSeP/Train/Labels/train_1.mat ...   inst_map, and classes that are not read
    CoNSeP/Test/...                       14 images

One domain. 16 patients, but the layout does not tell which image is whose.
"""

from celladapt.data.public import PublicSet
from celladapt.data.public._hovernet import labelled

SET = PublicSet(
    what="H&E of colorectal adenocarcinoma, 40x; nuclei as instances",
    citation="Graham, Vu, Raza, Azam, Tsang, Kwak, Rajpoot. HoVer-Net: Simultaneous Segmentation and Classification of Nuclei in Multi-Tissue Histology "
    "Images. Medical Image Analysis 58, 101563, 2019. doi:10.1016/j.media.2019.101563",
    licence="stated on the data set's page, behind its sign-in",
    size="41 images of 1000x1000",
    homepage="https://warwick.ac.uk/TIA/data/hovernet/",
    layout="Images/*.png beside Labels/*.mat",
    read=labelled,
    ask="its page, https://warwick.ac.uk/TIA/data/hovernet/, asks for a sign-in; without one, ask the TIA Centre (tia@warwick.ac.uk)",
)
