"""Choosing a checkpoint without target labels: criteria on predictions and images alone, higher is better; what the images alone say is a clue only.

Each is a function of the probability maps of unlabelled images, some also of the images or of a segmentation that learns nothing, so none can see a mask.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from celladapt.classical import Witness
from celladapt.instances import to_instances
from celladapt.metrics import foreground
from celladapt.shape import solidity

ZOOM = 0.75
RING = 7  # px: width of the surroundings that a nucleus is compared with
EMPTY, FULL = 1e-4, 0.95
"""Share of foreground below or above which a mask of several images is taken to have collapsed: two hundred pixels of eight images of 512 x 512, a nucleus or none."""
CERTAINTY = ("infomax", "snd", "entropy", "consistency", "zoom")
"""Criteria that ask how sure a network is, or how steady."""
CLUES = ("likeness", "agreement", "witnessed", "solidity")
"""What ``clues`` gives."""
Labels = NDArray[np.int32]
"""[H, W], 0 background, nuclei numbered from 1."""


def scores(
    maps: list[Tensor], predict: Callable[[Tensor], Tensor], images: Sequence[Tensor], classical: Sequence[Witness], threshold: float = 0.5
) -> dict[str, float]:
    """Every criterion by name.

    How sure a network is, is asked of what it says, and not of what is left once its masks are cut at another threshold: that would make it the surer the more is cut off.

    Args:
        maps: what ``predict`` gives for ``images``.
        predict: image [3, H, W], normalised -> probability map [H, W] in [0, 1], on the CPU; of any size.
        images: [3, H, W] each, normalised.
        classical: what the classical segmentation sees in each image.
        threshold: that has been moved to 1/2 (``celladapt.threshold``).

    The clues are among them.
    """
    said = [uncut(p, threshold) for p in maps]
    return {
        "infomax": infomax(said),
        "snd": snd(said),
        "entropy": entropy(said, maps),
        "consistency": consistency(said, [uncut(predict(perturb(x)), threshold).flip(-1) for x in images]),
        "zoom": consistency(said, [_resized(uncut(predict(_resized(x, ZOOM)), threshold), x.shape[-2:]) for x in images]),
        "contrast": contrast(maps, images),
        **clues(maps, classical),
    }


def clues(maps: list[Tensor], classical: Sequence[Witness]) -> dict[str, float]:
    """What ``celladapt.quality`` tells the IoU by, and which of two models is better.

    ``witnessed`` is the images' alone: the share of them in which the witness is plausible.

    Args:
        maps: probability maps [H, W] in [0, 1].
        classical: what the classical segmentation sees in each image.
    """
    if not all(torch.isfinite(p).all() for p in maps):  # a network that is broken: NaN would pass for background
        return dict.fromkeys(CLUES, math.nan)
    return {
        "likeness": likeness(maps, classical),
        "agreement": agreement(maps, classical),
        "witnessed": sum(c.verdict.plausible for c in classical) / max(1, len(classical)),
        "solidity": solid([to_instances(p.numpy()) for p in maps]),
    }


def uncut(p: Tensor, threshold: float) -> Tensor:
    """``p`` in [0, 1] as it was before ``threshold``, in (0, 1), was moved to 1/2 by a shift of the logits, elementwise."""
    if threshold == 0.5:
        return p
    on, off = p * threshold, (1 - p) * (1 - threshold)
    return on / (on + off)


def perturb(x: Tensor) -> Tensor:
    """A mirrored copy with 10 % less contrast and a fixed faint noise (0.1 standard deviations): [3, H, W] -> the same shape."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return 0.9 * x.flip(-1) + 0.1 * noise


def _resized(x: Tensor, to: float | Sequence[int]) -> Tensor:
    """[..., H, W] bilinear, by a factor or to a height and width."""
    size = [max(1, round(to * n)) for n in x.shape[-2:]] if isinstance(to, float) else list(to)
    return F.interpolate(x.reshape(1, -1, *x.shape[-2:]), size, mode="bilinear", antialias=True).reshape(*x.shape[:-2], *size)


def pixel_entropy(p: Tensor) -> Tensor:
    """Shannon entropy of Bernoulli(p) in nats, elementwise; ``p`` in [0, 1], result in [0, ln 2]."""
    return -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p))


def entropy(maps: list[Tensor], cut: list[Tensor] | None = None) -> float:
    """-mean H(p): how sure the predictions are (Grandvalet and Bengio, NeurIPS 2004); in [-2 ln 2, 0].

    An empty or full mask is sure too, so where nearly every pixel of all images is on one side of 1/2, ln 2 is taken off: that is below any other prediction.

    Args:
        maps: probability maps [H, W] in [0, 1].
        cut: the same once the best threshold is at 1/2, where that has been moved.
    """
    foreground = float(torch.stack([(p >= 0.5).double().mean() for p in cut or maps]).mean())
    collapsed = not EMPTY <= foreground <= FULL
    return -_mean_entropy(maps) - collapsed * math.log(2)


def infomax(maps: list[Tensor]) -> float:
    """H(mean p) - mean H(p): the mutual information of pixel and class (information maximisation; Liang et al., SHOT, ICML 2020).

    0 for a constant prediction, so an empty or full mask scores lowest; greatest when every pixel is sure and the classes are balanced.

    Args:
        maps: probability maps [H, W] in [0, 1].
    """
    marginal = torch.stack([p.mean() for p in maps]).mean()
    return float(pixel_entropy(marginal)) - _mean_entropy(maps)


def _mean_entropy(maps: list[Tensor]) -> float:
    return float(torch.stack([pixel_entropy(p).mean() for p in maps]).mean())


def snd(maps: list[Tensor], pixels: int = 512, temperature: float = 0.05) -> float:
    """Soft neighbourhood density (Saito et al., ICCV 2021): mean entropy of each pixel's similarity to the others, per image.

    A pixel's feature is its class distribution (p, 1 - p) scaled to length 1; similarities are cosines over ``temperature``, a pixel's own
    left out. Dense neighbourhoods (many alike) score high. One constant prediction is the densest of all, so collapse scores high too.

    Args:
        maps: probability maps [H, W] in [0, 1].
        pixels: at most this many are taken from each image, on an even grid so that the score has no randomness.
        temperature: 0.05 as published.
    """
    densities = []
    for p in maps:
        # A grid of rows and columns, since every k-th pixel of the flat image can be a mere diagonal (it is, at 512 x 512).
        rows, columns = (torch.linspace(0, n - 1, min(n, math.isqrt(pixels))).round().long() for n in p.shape)
        p = p[rows][:, columns].flatten().double()
        features = torch.nn.functional.normalize(torch.stack([p, 1 - p], dim=1), dim=1)  # [N, 2]
        similarity = features @ features.T / temperature  # [N, N]
        similarity.fill_diagonal_(-torch.inf)
        log_neighbours = similarity.log_softmax(dim=1).fill_diagonal_(0)  # its own weight is 0: keep 0·log 0 out
        densities.append(-(log_neighbours.exp().fill_diagonal_(0) * log_neighbours).sum(dim=1).mean())
    return float(torch.stack(densities).mean())


def consistency(maps: list[Tensor], perturbed: list[Tensor]) -> float:
    """Soft Dice of predictions with predictions for perturbed copies of the same images, mean over images (in the spirit of CTE, arXiv 2503.00450).

    2·Σ p·q / (Σ p² + Σ q²): 1 for equal maps. A prediction without any foreground scores 0, so collapse to empty is seen.

    Args:
        maps: probability maps [H, W] in [0, 1].
        perturbed: the maps for the perturbed images, brought back into place.
    """
    tiny = 1e-6
    scores = [2 * (p * q).sum() / ((p * p).sum() + (q * q).sum() + tiny * p.numel()) for p, q in zip(maps, perturbed, strict=True)]
    return float(torch.stack(scores).mean())


def agreement(maps: list[Tensor], classical: Sequence[Witness]) -> float:
    """Mean IoU of the predicted masks with a segmentation that learns nothing: a witness that shares no mistake with a network trained elsewhere.

    An image in which what the witness sees is not plausible counts 0 whatever is predicted.

    Args:
        maps: probability maps [H, W] in [0, 1].
        classical: one for each.
    """
    overlaps = [foreground((p >= 0.5).numpy(), c.mask).iou for p, c in zip(maps, classical, strict=True) if c.verdict.plausible]
    return sum(overlaps) / max(1, len(classical))


def likeness(maps: list[Tensor], classical: Sequence[Witness]) -> float:
    """Mean IoU of the predicted masks with the classical segmentation, in each image times the solidity of that: it is worth the less the less it has the shape
    of nuclei. Where it sees nothing its solidity is 0, or an empty prediction would be held right.

    Args:
        maps: probability maps [H, W] in [0, 1].
        classical: one for each.
    """
    overlaps = [foreground((p >= 0.5).numpy(), c.mask).iou * c.verdict.solidity for p, c in zip(maps, classical, strict=True)]
    return sum(overlaps) / max(1, len(overlaps))


def contrast(maps: list[Tensor], images: Sequence[Tensor]) -> float:
    """How well the predicted outlines divide what is seen: mean over images of Fisher's ratio between nuclei and the ring of ``RING`` px around them.

    d² / (d² + v), d the distance of the mean colours, v the mean variance about them: 0 where nuclei look like their surroundings or there are none, 1 where
    each is of one colour.

    Args:
        maps: probability maps [H, W] in [0, 1].
        images: [3, H, W] each.
    """
    ratios = []
    for p, x in zip(maps, images, strict=True):
        inside = p >= 0.5
        grown = F.max_pool2d(inside[None, None].float(), 2 * RING + 1, stride=1, padding=RING)[0, 0] > 0
        around = grown & ~inside
        if min(int(inside.sum()), int(around.sum())) < 2:
            ratios.append(0.0)
            continue
        a, b = x[:, inside], x[:, around]
        distance = float(((a.mean(1) - b.mean(1)) ** 2).sum())
        spread = float((a.var(1) + b.var(1)).sum() / 2)
        ratios.append(distance / (distance + spread + 1e-12))
    return sum(ratios) / len(ratios)


def solid(labels: Sequence[Labels]) -> float:
    """Whether the predicted nuclei, [H, W] labels each, have the shape of nuclei: their mean solidity, each pixel counting alike; 0 where there are none."""
    areas = [int((some > 0).sum()) for some in labels]
    return sum(area * solidity(some) for area, some in zip(areas, labels, strict=True)) / max(1, sum(areas))
