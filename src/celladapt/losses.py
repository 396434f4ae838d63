"""The losses of the methods, as pure functions of tensors."""

from collections.abc import Callable
from enum import IntEnum

import torch
import torch.nn.functional as F
from torch import Tensor


class Domain(IntEnum):
    """Domain labels as the discriminator sees them (Haq and Huang 2020: source 0, target 1)."""

    SOURCE = 0
    TARGET = 1


def _identity(x: Tensor) -> Tensor:
    return x


def soft_dice_loss(p: Tensor, y: Tensor, total: Callable[[Tensor], Tensor] = _identity) -> Tensor:
    """Soft Dice over the whole batch:  L_seg = 1 - (2·Σ p·y + 1) / (Σ p + Σ y + 1).

    The sums run over every pixel of every image, so the loss of a batch is not the mean of its images' losses.

    Args:
        p: predictions, any shape, in [0, 1].
        y: truth, same shape, in {0, 1}.
        total: carries a sum over this process to the sum over all processes; the identity when there is one.

    Returns:
        Scalar in [0, 1). An empty truth with an empty prediction costs 0.

    Source: Haq and Huang 2020, segmentation loss.
    """
    sums = total(torch.stack([(p * y).sum(), p.sum() + y.sum()]))
    return 1 - (2 * sums[0] + 1) / (sums[1] + 1)


def cross_entropy_loss(p: Tensor, y: Tensor, weights: Tensor, total: Callable[[Tensor], Tensor] = _identity) -> Tensor:
    """Pixelwise cross-entropy,  L_bce = -Σ w·(y·log p + (1 - y)·log(1 - p)) / Σ w  in nats: the mean over an image's pixels, then over images.

    Soft Dice compares sums, and where nuclei are few its slope at a pixel of background is small; this one's does not depend on how many there are. But with it
    a network also learns how many there are, which another domain may have more of, or fewer.

    Args:
        p: predictions [B, 1, H, W] in [0, 1]; one that is 1 to the last bit off a nucleus (a logit of 17 in float32) has no slope left.
        y: truth, same shape, in {0, 1}.
        weights: [B] >= 0, of the images.
        total: as for ``soft_dice_loss``.

    Returns:
        Scalar >= 0; 0 where no image has weight.

    Source: Isensee et al., Nature Methods 2021 (nnU-Net), which adds it to soft Dice.
    """
    least = torch.finfo(p.dtype).tiny
    loss = -(y * p.clamp_min(least).log() + (1 - y) * (1 - p).clamp_min(least).log()).mean(dim=(1, 2, 3))
    w = weights.to(loss.dtype)
    sums = total(torch.stack([(w * loss).sum(), w.sum()]))
    return sums[0] / torch.where(sums[1] > 0, sums[1], 1.0)


def domain_loss(logits: Tensor, domain: Domain, weights: Tensor | None = None) -> Tensor:
    """BCE(logits, domain), the mean over the logits map of (weights ·) binary cross-entropy against one domain label.

    ``domain_loss(D(S(I_t)), Domain.TARGET)`` is D's loss on target predictions; with ``Domain.SOURCE`` it is L_adv, the loss of S for not
    passing as source.

    Args:
        logits: D's output before the sigmoid, any shape; [B, ...] with weights.
        domain: the label every logit is held against.
        weights: [B] >= 0, factors of the images' losses before the mean is taken; 1 by default.

    Returns:
        Scalar >= 0.

    Source: Haq and Huang 2020, discriminator and adversarial losses.
    """
    label = logits.new_full((), float(domain)).expand_as(logits)
    factors = None if weights is None else weights.to(logits.dtype).view(-1, *[1] * (logits.ndim - 1))
    return F.binary_cross_entropy_with_logits(logits, label, factors)


def self_information(p: Tensor) -> Tensor:
    """Weighted self-information of the two classes, (-p·log p, -(1 - p)·log(1 - p)) in nats; its sum is the Shannon entropy of Bernoulli(p).

    Args:
        p: probabilities of nucleus [B, 1, H, W] in [0, 1]. At 0 and 1 the map is 0 and its gradient finite, so that a saturated sigmoid,
            whose own gradient is 0, passes none on.

    Returns:
        [B, 2, H, W] in [0, 1/e]: nucleus, background.

    Source: Vu et al., CVPR 2019, weighted self-information maps.
    """
    both = torch.cat([p, 1 - p], dim=1)
    return -both * both.clamp_min(torch.finfo(p.dtype).tiny).log()


def r1_penalty(D: Callable[[Tensor], Tensor], p: Tensor) -> Tensor:
    """Squared slope of D where the data are real:  Σ ‖∇_p Σ D(p)‖² / number of logits;  γ/2 times it is R1.

    With one logit an image it is the published E‖∇D(p)‖². For a map of logits it is, but for the overlap of what two logits see, the mean
    over the map of each logit's squared slope, which does not depend on the size of the image.

    Args:
        D: maps ``p`` to logits, each image by itself; twice differentiable, which a compiled network is not.
        p: [B, C, H, W]; taken as a constant, so the gradient of the penalty goes to D alone.

    Returns:
        Scalar >= 0.

    Source: Mescheder et al., ICML 2018, R1.
    """
    p = p.detach().requires_grad_(True)
    logits = D(p)
    (slope,) = torch.autograd.grad(logits.sum(), p, create_graph=True)
    return slope.square().sum() / logits.numel()
