"""Self-training with a mean teacher: target pseudo-labels from the average of S over the steps (Tarvainen and Valpola, NeurIPS 2017; French et al., ICLR 2018).

    L = L_seg + w · lambda_st · L_st
        L_seg = soft Dice of S(I_s) against Y_s, and of S(I_t) against Y_t where the target image has a mask
        L_st  = soft Dice of S(A(I_t)) against [T(I_t) >= 1/2], over the pixels of which T is sure

T, the teacher, sees target crops as they are; S sees them through the appearance randomisation A, so that it has to find in a changed image what T
finds in the plain one. w rises from 0 to 1 over the first part of the training, while T is no better than S.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from celladapt.batch import Batch
from celladapt.losses import soft_dice_loss
from celladapt.methods import Method, Term, Terms, Turn
from celladapt.networks import Segmenter
from celladapt.parallel import sum_over_processes

RAMP = 0.3
"""Share of the training over which the weight of the pseudo-labels rises."""


@dataclass(frozen=True)
class MeanTeacherOptions:
    """Weight of self-training and how sure the teacher must be."""

    lambda_st: float = 1.0
    """Weight of the self-training loss."""
    lambda_cls: float = 1.0
    """Weight of the loss against the classical segmentation."""
    fade: float = 0.6
    """Share of the training over which that weight fades out; 0 keeps it."""
    agree: float = 0.0
    """x"""
    warm: float = 0.0
    """x"""
    sure: float = 0.5
    """Pixels count where |2·T(I_t) - 1| is at least this."""


class MeanTeacher(Method):
    """Unsupervised: target masks are never read."""

    Options = MeanTeacherOptions
    taught = classical = True
    equations = {
        "seg": "L_seg: soft Dice of S against the masks",
        "classical": "L_cls: soft Dice of S against the classical segmentation of the target",
        "self": "L_st: soft Dice of S against the teacher's confident pseudo-labels",
    }

    def __init__(self, width: int, options: MeanTeacherOptions) -> None:
        self.options = options
        self.networks = nn.ModuleDict({"S": Segmenter(width)})

    @property
    def turns(self) -> tuple[Turn, ...]:
        """S alone."""
        return (Turn(("S",), self.segmenter_terms),)

    def segmenter_terms(self, b: Batch, p_s: Tensor, p_t: Tensor) -> Terms:
        """L_seg + w · lambda_st · L_st"""
        c, q = self.options, b.teacher_t
        sure = ((2 * q - 1).abs() >= c.sure).to(p_t.dtype)
        w = math.exp(-5 * (1 - min(1.0, b.progress / RAMP)) ** 2)
        keep = 1 - ((q - b.classical_t).abs() > c.agree).to(p_t.dtype) if c.agree and b.progress > RAMP else torch.ones_like(p_t)
        v = max(0.0, 1 - b.progress / c.fade) if c.fade else 1.0
        if b.progress < c.warm:
            v = 0.0
        return {
            "seg": Term(1.0, self.supervised_loss(b, p_s, p_t)),
            "classical": Term(v * c.lambda_cls, soft_dice_loss(p_t * keep, b.classical_t * keep, sum_over_processes)),
            "self": Term(w * c.lambda_st, soft_dice_loss(p_t * sure, (q >= 0.5) * sure, sum_over_processes)),
        }

    def supervised_loss(self, b: Batch, p_s: Tensor, p_t: Tensor) -> Tensor:
        """L_seg: the source masks alone."""
        return soft_dice_loss(p_s, b.mask_s, sum_over_processes)
