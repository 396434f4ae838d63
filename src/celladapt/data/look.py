"""What sets two domains apart before anything is learned: colour, polarity and the size of nuclei. The source can be shown in the target's.

The source's look is read off its masks. The target has none, so that the classical segmentation stands in: it need not find every nucleus for that, but
the side that nuclei are on, and how large most of what it found is. Where what it found does not have the shape of nuclei it has no say about their size.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from celladapt.classical import witness
from celladapt.data.folder import Folder
from celladapt.data.sample import evenly, middle
from celladapt.instances import tells_apart, to_instances
from celladapt.shape import WITNESS, usual_area

MOST_IMAGES = 16
SIDE = 1024  # px: of a larger image its middle is looked at
LARGEST_ZOOM = 2.0
"""A ratio of sizes beyond this is more often a wrong estimate than true, and shrunk to this."""
ABSURD = 3.0
"""A ratio of sizes beyond this says nothing: tissue was taken for a nucleus, or crumbs were."""


@dataclass(frozen=True)
class Look:
    """How a domain's nuclei look."""

    grey: bool
    """Whether the channels of every image are equal."""
    bright: bool | None
    """Whether nuclei are brighter than what is around them; None where none were found."""
    diameter: float
    """Of the nucleus that the median pixel of all nuclei lies in, px: crumbs of a bad segmentation count by their area alone. 0 where it is not known."""
    witnessed: float
    """Share of the images that say how large nuclei are: that have a mask, or a classical segmentation that is plausible."""


@dataclass(frozen=True)
class Match:
    """What is done to images and masks of the source so that they look like the target's."""

    grey: bool = False
    inverted: bool = False
    zoom: float = 1.0
    """Enlargement."""

    def image(self, image: NDArray[Any]) -> NDArray[Any]:
        """(H, W, 3) uint8 or uint16 -> the same dtype, (H · zoom, W · zoom, 3)."""
        if self.grey:
            image = np.repeat(np.rint(image.mean(2, keepdims=True)).astype(image.dtype), 3, axis=2)
        if self.inverted:
            image = np.iinfo(image.dtype).max - image
        return image if self.zoom == 1 else enlarged(image, self._shape(image.shape))

    def mask(self, labels: NDArray[np.int32]) -> NDArray[np.int32]:
        """(H, W) labels -> (H · zoom, W · zoom), each pixel the nearest one's."""
        if self.zoom == 1:
            return labels
        rows, columns = (((np.arange(to) + 0.5) * n / to).astype(int) for n, to in zip(labels.shape, self._shape(labels.shape), strict=True))
        return np.asarray(labels[rows][:, columns])

    def _shape(self, shape: tuple[int, ...]) -> tuple[int, int]:
        return max(1, round(shape[0] * self.zoom)), max(1, round(shape[1] * self.zoom))

    @property
    def words(self) -> str:
        """What was done, for people; empty where nothing was."""
        done = [
            word
            for word, is_done in (("grey", self.grey), ("inverted", self.inverted), (f"at {self.zoom:.2f} times its size", self.zoom != 1))
            if is_done
        ]
        return ", ".join(done)


def enlarged(image: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """(H, W, C) uint8 or uint16 at another height and width, bilinear, without aliasing."""
    planes = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32))[None]
    grown = F.interpolate(planes, shape, mode="bilinear", antialias=True)[0].numpy()
    return np.asarray(np.rint(grown).astype(image.dtype).transpose(1, 2, 0))


def look_of(folder: Folder) -> Look:
    """The look of ``folder`` by at most ``MOST_IMAGES`` of its images, evenly chosen: by their masks where it has any, else by the classical segmentation.

    Raises:
        InputError: a file cannot be read.
    """
    areas: list[NDArray[np.int64]] = []
    differences: list[float] = []
    grey = True
    seen = evenly(list(folder.masks or folder.images), MOST_IMAGES)
    for stem in seen:
        if stem in folder.masks:
            image, mask = folder.pair(stem)
            image, mask = middle(image, SIDE), middle(mask, SIDE)
            # Nuclei that touch in a mask of one value, or of classes, are told apart as those of the target are, or they would be taken for one large nucleus.
            labels = mask if tells_apart(mask) else to_instances(mask > 0)
        else:
            image = middle(folder.image(stem), SIDE)
            found = witness(image)
            labels = to_instances(found.mask)
        grey = grey and np.array_equal(image[..., 0], image[..., 1]) and np.array_equal(image[..., 0], image[..., 2])
        if stem in folder.masks or found.verdict.plausible:
            areas.append(np.unique(labels[labels > 0], return_counts=True)[1])  # labels may be huge numbers
        inside, light = labels > 0, image.mean(2)
        if 0 < inside.sum() < inside.size:
            differences.append(float(light[inside].mean() - light[~inside].mean()))
    diameter = 2 * math.sqrt(usual_area(np.concatenate([np.zeros(0, int), *areas])) / math.pi)
    return Look(bool(grey), sum(differences) > 0 if differences else None, diameter, len(areas) / max(1, len(seen)))


def match(source: Look, target: Look) -> Match:
    """How to show the source so that it looks like the target."""
    known = source.diameter and target.diameter and min(source.witnessed, target.witnessed) >= WITNESS
    zoom = target.diameter / source.diameter if known else 1.0
    zoom = float(np.clip(zoom, 1 / LARGEST_ZOOM, LARGEST_ZOOM)) if 1 / ABSURD < zoom < ABSURD else 1.0
    inverted = None not in (source.bright, target.bright) and source.bright != target.bright
    return Match(target.grey and not source.grey, inverted, 1.0 if 0.9 < zoom < 1.1 else round(zoom, 2))
