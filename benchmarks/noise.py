"""Folders of noise for the benchmarks that draw their images from files."""

from pathlib import Path
from typing import Literal

import numpy as np

from celladapt.data.folder import Folder
from celladapt.data.images import write_image
from celladapt.data.normalise import Normalisation
from celladapt.data.pairs import Pairs, Stream

NORMALISATION = Normalisation((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


def domain(root: Path, images: int, side: int) -> Folder:
    """An annotated domain of noise."""
    draw = np.random.default_rng(0)
    for index in range(images):
        write_image(root / "images" / f"{index:03d}.png", draw.integers(0, 256, (side, side, 3), dtype=np.uint8))
        write_image(root / "masks" / f"{index:03d}.png", draw.integers(0, 2, (side, side)).astype(bool))
    return Folder.open(root)


def pairs(folder: Folder, crop: int | Literal["whole"], batch: int, augment: str = "colour") -> Pairs:
    """What training draws from, with the default augmentation unless another is named."""
    source, target = (Stream(folder, NORMALISATION, crop, augment, (0, number)) for number in (0, 1))
    return Pairs(source, target, batch)
