"""The losses of CellSegUDA and CellSegSSDA, as pure functions of tensors."""

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


def domain_loss(logits: Tensor, domain: Domain) -> Tensor:
    """BCE(logits, domain), the mean over the logits map of binary cross-entropy against one domain label.

    ``domain_loss(D(S(I_t)), Domain.TARGET)`` is D's loss on target predictions; with ``Domain.SOURCE`` it is L_adv, the loss of S for not
    passing as source.

    Args:
        logits: D's output before the sigmoid, any shape.
        domain: the label every logit is held against.

    Returns:
        Scalar >= 0.

    Source: Haq and Huang 2020, discriminator and adversarial losses.
    """
    return F.binary_cross_entropy_with_logits(logits, logits.new_full((), float(domain)).expand_as(logits))
