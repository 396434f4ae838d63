"""Where a mask is cut: the threshold at which a segmenter meets the masks that taught it best, moved to a probability of 1/2.

A network that has learned little draws too wide at 1/2. Soft Dice grows with the probability of a pixel wherever that is a nucleus more often than in Dice/2 of all cases, which is far below
one in two as long as Dice is low, so the rims of nuclei are drawn in. Tuning the threshold on annotated images is old; here the last bias takes it up, so that whatever cuts at 1/2 afterwards is right.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from celladapt.classical import SEEN_TOO
from celladapt.networks import Segmenter

THRESHOLDS = torch.linspace(0.1, 0.9, 81)
HALF = 40
"""Place of 1/2 in ``THRESHOLDS``."""
ALIKE = 0.01
"""IoU that a few images do not tell apart: of thresholds so near to the best the most cautious is taken."""
Annotated = Sequence[tuple[Tensor, Tensor]]
"""An image [3, H, W], normalised, and its mask [H, W] bool, of each."""


@dataclass(frozen=True)
class Teachers:
    """Images with what the segmenter may be held against, none of it new to it."""

    given: Annotated = ()
    """Of the target, with masks that the method was given."""
    standing: Annotated = ()
    """Of the target, with the classical segmentation, where it may stand for a mask."""
    source: Annotated = ()


@torch.inference_mode()
def cut_at_half(network: Segmenter, predict: Callable[[Tensor], Tensor], teachers: Teachers) -> float:
    """Move the last bias of ``network`` so that what was the best threshold is at 1/2.

    Best is the largest IoU, mean over images, as scores are (over all pixels one image full of nuclei would decide for all), but for ``ALIKE``, against the given masks where there are some; else against the
    classical segmentation, if the network marks half of what that sees; else against the masks of the source. Images without a nucleus have no part; where there is no other nothing moves.

    Args:
        network: in evaluation mode; changed.
        predict: image [3, H, W] -> what ``network`` makes of it, [H, W] in [0, 1].
        teachers: images of either domain.

    Returns:
        The threshold that was best, in [0.1, 0.9].
    """
    for images, least in ((teachers.given, 0.0), (teachers.standing, SEEN_TOO), (teachers.source, 0.0)):
        counts = [tally(predict(image), mask) for image, mask in images if mask.any()]
        if counts and sum(_reaching(some)[1, HALF] for some in counts) >= least * sum(some[1].sum() for some in counts):
            best = float(THRESHOLDS[best_of(counts)])
            assert network.head.bias is not None
            network.head.bias -= math.log(best / (1 - best))
            return best
    return 0.5


def tally(p: Tensor, mask: Tensor) -> Tensor:
    """[2, 82] counts: of pixels off and on the boolean ``mask``, how many reach 0, 1, ... all of ``THRESHOLDS`` with ``p``, of the same shape, on the CPU."""
    reached = torch.bucketize(p, THRESHOLDS, right=True)
    return torch.stack([torch.bincount(reached[side], minlength=len(THRESHOLDS) + 1) for side in (~mask, mask)])


def best_of(counts: Sequence[Tensor]) -> int:
    """Place in ``THRESHOLDS`` of the one nearest to 1/2 whose IoU, mean over images of which each has the counts of ``tally`` and a nucleus, is within ``ALIKE`` of the largest."""
    iou = torch.stack([_iou(some) for some in counts]).mean(0)
    places: list[int] = torch.nonzero(iou >= iou.max() - ALIKE).flatten().tolist()
    return min(places, key=lambda place: abs(place - HALF))


def _iou(counts: Tensor) -> Tensor:
    """[81]: at each threshold."""
    off, on = _reaching(counts)
    iou: Tensor = on / (counts[1].sum() + off)
    return iou


def _reaching(counts: Tensor) -> Tensor:
    """[2, 81]: how many pixels off and on the mask reach each threshold."""
    return counts.flip(1).cumsum(1).flip(1)[:, 1:]
