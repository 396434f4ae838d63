"""Choosing a checkpoint without target labels: criteria on predictions alone, higher is better.

Each is a function of the probability maps of the unlabelled validation images, so none can see a mask.
"""

import math

import torch
from torch import Tensor


def pixel_entropy(p: Tensor) -> Tensor:
    """Shannon entropy of Bernoulli(p) in nats, elementwise; ``p`` in [0, 1], result in [0, ln 2]."""
    return -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p))


def entropy(maps: list[Tensor]) -> float:
    """-mean H(p): how sure the predictions are (Grandvalet and Bengio, NeurIPS 2004).

    Blind to collapse: an empty prediction is sure too. Kept for comparison.

    Args:
        maps: probability maps [H, W] in [0, 1].
    """
    return -float(torch.stack([pixel_entropy(p).mean() for p in maps]).mean())


def infomax(maps: list[Tensor]) -> float:
    """H(mean p) - mean H(p): the mutual information of pixel and class (information maximisation; Liang et al., SHOT, ICML 2020).

    0 for a constant prediction, so an empty or full mask scores lowest; greatest when every pixel is sure and the classes are balanced.

    Args:
        maps: probability maps [H, W] in [0, 1].
    """
    marginal = torch.stack([p.mean() for p in maps]).mean()
    return float(pixel_entropy(marginal)) + entropy(maps)


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
