"""CellSegUDA: output-space adversary and reconstruction (Haq and Huang, MIDL 2020).

Per step, first D, then S and R:

    L_D = BCE(D(S(I_s)), source) + BCE(D(S(I_t)), target)
    L   = L_seg + lambda_adv · L_adv + lambda_rec · L_rec
          L_seg = soft Dice of S(I_s) against Y_s
          L_adv = BCE(D(S(I_t)), source)
          L_rec = MSE(R(S(I_t)), I_t)

Not in the paper: an R1 penalty, r1/2 · E‖∇D(S(I_s))‖², which joins L_D where it is asked for and keeps D from growing steep where it has
already won (Mescheder et al., ICML 2018). Source predictions are its real data.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from celladapt.batch import Batch
from celladapt.losses import Domain, domain_loss, r1_penalty, soft_dice_loss
from celladapt.methods import Method, Term, Terms, Turn
from celladapt.networks import Discriminator, Segmenter, UNet
from celladapt.parallel import sum_over_processes


@dataclass(frozen=True)
class CellSegUDAOptions:
    """Loss weights of CellSegUDA; the defaults are the paper's."""

    lambda_adv: float = 0.001
    """Weight of the adversarial loss."""
    lambda_rec: float = 0.01
    """Weight of the reconstruction loss; 0 leaves R out (CellSegUDA without reconstruction)."""
    r1: float = 0.0
    """Weight γ of D's R1 penalty; 0, as in the paper, leaves it out."""


class CellSegUDA(Method):
    """Unsupervised: target masks are never read."""

    Options = CellSegUDAOptions
    equations = {
        "dis_source": "BCE(D(S(I_s)), source): D on source predictions",
        "dis_target": "BCE(D(S(I_t)), target): D on target predictions",
        "r1": "E‖∇D(S(I_s))‖²: how steep D is on source predictions (with the option r1)",
        "seg": "L_seg: soft Dice of S against the masks",
        "adv": "L_adv = BCE(D(S(I_t)), source): S passing target predictions as source",
        "rec": "L_rec = MSE(R(S(I_t)), I_t): the target image from its prediction",
    }

    def __init__(self, width: int, options: CellSegUDAOptions) -> None:
        self.options = options
        self.networks = nn.ModuleDict({"S": Segmenter(width), "D": Discriminator(width)})
        if options.lambda_rec:
            self.networks["R"] = UNet(1, 3, width)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """D, then S and R."""
        discriminators = tuple(name for name in self.networks if name.startswith("D"))
        segmenters = tuple(name for name in self.networks if name not in discriminators)
        return Turn(discriminators, self.discriminator_terms), Turn(segmenters, self.segmenter_terms)

    def discriminator_terms(self, b: Batch, p_s: Tensor, p_t: Tensor) -> Terms:
        """L_D"""
        D, c = self.networks["D"], self.options
        terms = {
            "dis_source": Term(1.0, domain_loss(D(p_s), Domain.SOURCE)),
            "dis_target": Term(1.0, domain_loss(D(p_t), Domain.TARGET)),
        }
        if c.r1:
            terms["r1"] = Term(c.r1 / 2, r1_penalty(D.forward, p_s))  # not D itself, as that may be compiled
        return terms

    def segmenter_terms(self, b: Batch, p_s: Tensor, p_t: Tensor) -> Terms:
        """L_seg + lambda_adv · L_adv + lambda_rec · L_rec"""
        D, c = self.networks["D"], self.options
        terms = {
            "seg": Term(1.0, self.supervised_loss(b, p_s, p_t)),
            "adv": Term(c.lambda_adv, domain_loss(D(p_t), Domain.SOURCE)),
        }
        if "R" in self.networks:
            terms |= self.reconstruction_terms(b, self.networks["R"](p_t))
        return terms

    def reconstruction_terms(self, b: Batch, reconstruction: Tensor) -> Terms:
        """lambda_rec · L_rec, where ``reconstruction`` [B, 3, H', W'] is R(S(I_t))."""
        return {"rec": Term(self.options.lambda_rec, F.mse_loss(reconstruction, b.image_t))}

    def supervised_loss(self, b: Batch, p_s: Tensor, p_t: Tensor) -> Tensor:
        """L_seg: the source masks alone."""
        return soft_dice_loss(p_s, b.mask_s, sum_over_processes)
