"""AdvEnt: an adversary on entropy maps (Vu et al., ADVENT, CVPR 2019, arXiv 1811.12833).

D does not see the prediction but how unsure it is, as the weighted self-information of each class and pixel:

    I(p) = (-p · log p, -(1 - p) · log(1 - p))
    L_D  = BCE(D(I(S(I_s))), source) + BCE(D(I(S(I_t))), target)
    L    = L_seg + lambda_adv · L_adv
           L_adv = BCE(D(I(S(I_t))), source)

S is sure of source images, for which it has masks, so to pass it must become sure of target images, in the shapes in which it is sure of the source.

The original has a softmax over many classes and one map a class; here are two classes, nucleus and background, so D has two input channels. With
their sum, the entropy, as a single channel D could not tell a nucleus from its negative. Logarithms are natural, as the paper writes them.
Networks and Dice loss are those of CellSegUDA, and the loop's D first, then S, so that a comparison of the two is about what D sees alone.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from celladapt.batch import Batch
from celladapt.losses import Domain, domain_loss, self_information, soft_dice_loss
from celladapt.methods import Method, Term, Terms, Turn
from celladapt.networks import Discriminator, Segmenter
from celladapt.parallel import sum_over_processes


@dataclass(frozen=True)
class AdvEntOptions:
    """Loss weight of AdvEnt; the default is the paper's."""

    lambda_adv: float = 0.001
    """Weight of the adversarial loss."""


class AdvEnt(Method):
    """Unsupervised: target masks are never read."""

    Options = AdvEntOptions
    paper = (
        "T.-H. Vu, H. Jain, M. Bucher, M. Cord and P. Pérez, ADVENT: Adversarial Entropy Minimization for Domain Adaptation in Semantic Segmentation, "
        "CVPR 2019"
    )
    equations = {
        "dis_source": "BCE(D(I(S(I_s))), source): D on source self-information",
        "dis_target": "BCE(D(I(S(I_t))), target): D on target self-information",
        "seg": "L_seg: soft Dice of S against the source masks",
        "adv": "L_adv = BCE(D(I(S(I_t))), source): S as sure of the target as of the source",
    }

    def __init__(self, width: int, options: AdvEntOptions) -> None:
        self.options = options
        self.networks = nn.ModuleDict({"S": Segmenter(width), "D": Discriminator(width, inputs=2)})

    @property
    def turns(self) -> tuple[Turn, ...]:
        """D, then S."""
        return Turn(("D",), self.discriminator_terms), Turn(("S",), self.segmenter_terms)

    def discriminator_terms(self, b: Batch, p_s: Tensor, p_t: Tensor) -> Terms:
        """L_D"""
        D = self.networks["D"]
        return {
            "dis_source": Term(1.0, domain_loss(D(self_information(p_s)), Domain.SOURCE)),
            "dis_target": Term(1.0, domain_loss(D(self_information(p_t)), Domain.TARGET)),
        }

    def segmenter_terms(self, b: Batch, p_s: Tensor, p_t: Tensor) -> Terms:
        """L_seg + lambda_adv · L_adv"""
        D = self.networks["D"]
        return {
            "seg": Term(1.0, soft_dice_loss(p_s, b.mask_s, sum_over_processes)),
            "adv": Term(self.options.lambda_adv, domain_loss(D(self_information(p_t)), Domain.SOURCE)),
        }
