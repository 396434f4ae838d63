"""A segmentation that learns nothing: the bar that every learned method must be seen beside.

Stain or intensity, smoothed, split by the threshold of Otsu (IEEE Trans. SMC 1979). No threshold is tuned to a data set; which side of it the nuclei
are on is found from the image itself, and holes smaller than a nucleus are filled: chromatin lies along the rim of many. Whether what was found are nuclei at all is told by its shape.
One threshold cuts pale nuclei short and draws dark ones too wide. So each one's outline then goes to where the image is halfway between that nucleus and its own surroundings
(``celladapt.half_maximum``).

Where cells are dark all through, that split finds clumps of cells, and their nuclei are darker spots in them. So it looks closer, splitting once more within what stands out of its
surroundings (recursive thresholding: Cheriet, Said and Suen, IEEE Trans. Image Processing 1998), and takes what that finds if it is far smaller and has more of the shape of nuclei.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celladapt.half_maximum import outlined
from celladapt.instances import filled, to_instances
from celladapt.shape import solidity, usual_area

SMOOTHING = 1.0  # px, sigma
GROUND = 25.0
"""px, sigma: over how much of its surroundings a place is compared with them in looking closer; about two nuclei across."""
CLUMP = 16
"""What is at least so many times as large as the solid pieces in it is no nucleus: four times as wide. Nuclei are 1 to 13 times (in one of 95 images 22) as large as the
darkest chromatin in them, the clumps at hand 33 to 77 times as large as the nuclei in them."""
BRIGHT, DIM = 0.5, 0.3
"""Median light, in the brightest colour of a pixel, above which a coloured image shows light that came through a section, and not fluorescence; above the lesser only if it lacks green,
which both stains of a section swallow. The darkest section at hand has 0.44."""
PLAUSIBLE, SOLID = 0.86, 0.91
"""Solidity from which on what was found is taken for nuclei. Of tissue types where it finds them well enough to learn from 0.86 to 0.96, where not 0.83 to 0.86. And from which on its
outlines are trusted wholly: of fluorescence and of the tissue where it finds them best (IoU 0.7 and above) 0.91 and more."""
NEARLY, APART = 0.8, 0.675
"""Solidity from which on what was found has nearly the shape of nuclei; and the separability from which on that will do. A single bell curve cut in two has 2/π, 0.64. The drawn
tissue in whose haze of stain Otsu's threshold finds no nuclei has 0.57 to 0.67, prostate, on which its IoU is 0.49 and a network that learns from it has more, 0.68 to 0.72, most other tissue 0.7 to 0.85."""
SEEN_TOO = 0.5
"""Share of what it sees that a network must mark too for it to stand for masks."""


def classical_mask(image: NDArray[Any]) -> NDArray[np.bool_]:
    """Nuclei of an image.

    A coloured image that is bright, or dim and without green, is a stained section: its haematoxylin channel (Ruifrok and Johnston 2001) is thresholded, nuclei being where the stain
    is. Any other image is thresholded in its intensity (the brightest channel), nuclei being the side that covers less of it. Where that side is clumps in which
    solid pieces stand out, the pieces are taken. Small holes are filled, and each nucleus is outlined at half maximum.

    Args:
        image: (H, W) or (H, W, 3), uint8 or uint16 whose full range is black to white.

    Returns:
        (H, W) boolean, true on nuclei; all false for an image of one value.
    """
    return witness(image).mask


@dataclass(frozen=True)
class Verdict:
    """How far to believe what a segmentation sees, by its shape; no mask is needed to tell."""

    solidity: float
    """Of its pieces as they were found, before holes in them were filled and outlines moved, in [0, 1]."""
    area: float
    """px², as found, of the piece that its median pixel lies in: of nuclei if it sees nuclei, far more where it sees tissue."""
    closer: bool = False
    """Whether it had to look closer: what stands out at first are clumps in which the nuclei are."""
    separability: float = 0.0
    """Share of the variance of stain or light that lies between the two sides of the threshold, in [0, 1]: how far the image falls in two classes (Otsu 1979)."""

    @property
    def plausible(self) -> bool:
        """Whether what it sees has the shape of nuclei."""
        return self.solidity >= PLAUSIBLE

    @property
    def passable(self) -> bool:
        """Whether what it sees has the shape of nuclei, or nearly so in an image that falls in two classes."""
        return self.plausible or (self.solidity >= NEARLY and self.separability >= APART)

    @property
    def trust(self) -> float:
        """How far its outlines are to be trusted, in [0, 1]: 0 where it is barely plausible or not at all, 1 from ``SOLID`` on, a straight line between."""
        return min(1.0, max(0.0, (self.solidity - PLAUSIBLE) / (SOLID - PLAUSIBLE)))


@dataclass(frozen=True)
class Witness:
    """What the classical segmentation sees in an image, and how far to believe it."""

    mask: NDArray[np.bool_]
    """(H, W)."""
    verdict: Verdict

    @classmethod
    def of(cls, mask: NDArray[np.bool_]) -> "Witness":
        """Judge ``mask``, (H, W)."""
        labels = to_instances(mask)
        return cls(mask, Verdict(solidity(labels), _usual_area(labels)))


def witness(image: NDArray[Any]) -> Witness:
    """``classical_mask`` of ``image``, judged."""
    mask, height, seen = _standing_out(image)
    found = _found(mask, height, seen)
    found = replace(found, verdict=replace(found.verdict, separability=_separability(mask[seen], height[seen])))
    # No larger than a piece: the pale inside of a nucleus rather than a gap between several.
    hole = int(found.verdict.area) + 1
    whole = filled(found.mask, hole)
    # In looking closer each place was compared with its surroundings already.
    return replace(found, mask=whole if found.verdict.closer else filled(outlined(whole, height, seen), hole))


def _found(mask: NDArray[np.bool_], height: NDArray[np.float64], seen: NDArray[np.bool_]) -> Witness:
    first = Witness.of(mask)
    if first.verdict.area < CLUMP:
        return first
    spots = _within(mask, height, seen)
    labels = to_instances(spots)
    area = _usual_area(labels)
    if CLUMP * area > first.verdict.area:  # as nearly always; solidity takes longer
        return first
    within = Verdict(solidity(labels), area, closer=True)
    return Witness(spots, within) if within.plausible and within.solidity > first.verdict.solidity else first


def _separability(above: NDArray[np.bool_], heights: NDArray[np.float64]) -> float:
    """η of two classes of pixels, ``above`` and the others; 0 where there is only one."""
    share = float(above.mean())
    if not 0 < share < 1:
        return 0.0
    apart = heights[above].mean() - heights[~above].mean()
    return float(share * (1 - share) * apart**2 / heights.var())


def _usual_area(labels: NDArray[np.int32]) -> float:
    return usual_area(np.bincount(labels.ravel())[1:])


def _standing_out(image: NDArray[Any]) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.bool_]]:
    """(H, W) what Otsu's threshold makes of an image, the smoothed channel in which it does, the higher the more like a nucleus, and what is no black margin."""
    from skimage.filters import gaussian, threshold_otsu

    channel, polarity = nuclear_channel(image)
    # Black in a stained section is a margin that was filled in, and the most extreme stain there is: it must not draw the threshold to itself.
    seen = np.asarray(image.any(axis=2)) if polarity else np.ones(channel.shape, bool)
    smooth = gaussian(np.where(seen, channel, np.median(channel[seen])), SMOOTHING, preserve_range=True)  # type: ignore[no-untyped-call]
    if np.ptp(smooth) == 0:
        return np.zeros(smooth.shape, bool), smooth, seen
    above: NDArray[np.bool_] = (smooth > threshold_otsu(smooth[seen])) & seen  # type: ignore[no-untyped-call]
    return (above, smooth, seen) if polarity or above.mean() <= 0.5 else (~above, -smooth, seen)


def _within(mask: NDArray[np.bool_], height: NDArray[np.float64], seen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(H, W) what of ``mask`` stands out of its surroundings, and among all that does so most."""
    from skimage.filters import gaussian, threshold_otsu

    relief = height - gaussian(height, GROUND, preserve_range=True)  # type: ignore[no-untyped-call]
    higher: NDArray[np.bool_] = (relief > threshold_otsu(relief[seen])) & seen  # type: ignore[no-untyped-call]
    if higher.any() and np.ptp(relief[higher]) > 0:
        higher &= relief > threshold_otsu(relief[higher])  # type: ignore[no-untyped-call]
    return np.asarray(higher & mask)


def nuclear_channel(image: NDArray[Any]) -> tuple[NDArray[np.float64], bool]:
    """(H, W) channel in which nuclei stand out, and whether they are known to be its high values."""
    from skimage.color import rgb2hed

    unit = image / np.iinfo(image.dtype).max
    if image.ndim == 2:
        return unit, False
    brightest = unit.max(axis=2)
    return (np.asarray(rgb2hed(unit)[..., 0]), True) if _is_section(unit, brightest) else (brightest, False)


def _is_section(unit: NDArray[np.float64], brightest: NDArray[np.float64]) -> bool:
    """Whether (H, W, 3), in [0, 1], shows a stained section; ``brightest`` is the largest of its channels, (H, W)."""
    light = np.median(brightest)
    if light <= DIM or np.median(brightest - unit.min(axis=2)) <= 0.05:
        return False
    if light > BRIGHT:
        return True
    red, green, blue = np.median(unit, axis=(0, 1))
    return bool(min(red, blue) - green > 0.1)
