"""DA-ADV: adversarial adaptation in output space without reconstruction (Dong et al., MICCAI 2018, arXiv 1807.03434).

What sets it apart from CellSegUDA without reconstruction is what D compares. There D tells source predictions from target predictions;
here it tells annotators' masks from predictions of either domain, so that S must draw what an annotator would draw. Our reading:

    L_D = BCE(D(Y_s), source) + ½ [BCE(D(S(I_s)), target) + BCE(D(S(I_t)), target)]
    L   = L_seg + lambda_adv · ½ [BCE(D(S(I_s)), source) + BCE(D(S(I_t)), source)]

with the label "source" standing for "a real mask". Networks, Dice loss and weight are those of CellSegUDA, so that a comparison of the
two is about the adversary alone.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from celladapt.batch import Batch
from celladapt.losses import Domain, domain_loss, soft_dice_loss
from celladapt.methods import Method, Term, Terms, Turn
from celladapt.networks import Discriminator, Segmenter
from celladapt.parallel import sum_over_processes

REAL, PREDICTED = Domain.SOURCE, Domain.TARGET


@dataclass(frozen=True)
class DAADVOptions:
    """Loss weight of DA-ADV."""

    lambda_adv: float = 0.001
    """Weight of the adversarial loss (CellSegUDA's, as the original's 2-D chest X-ray setting differs)."""


class DAADV(Method):
    """Unsupervised: target masks are never read."""

    Options = DAADVOptions
    paper = (
        "N. Dong, M. Kampffmeyer, X. Liang, Z. Wang, W. Dai and E. P. Xing, Unsupervised Domain Adaptation for Automatic Estimation of Cardiothoracic Ratio, "
        "MICCAI 2018"
    )
    equations = {
        "dis_mask": "BCE(D(Y_s), real): D on annotators' masks",
        "dis_source": "BCE(D(S(I_s)), predicted): D on source predictions",
        "dis_target": "BCE(D(S(I_t)), predicted): D on target predictions",
        "seg": "L_seg: soft Dice of S against the source masks",
        "adv_source": "BCE(D(S(I_s)), real): S passing source predictions as masks",
        "adv_target": "BCE(D(S(I_t)), real): S passing target predictions as masks",
    }

    def __init__(self, width: int, options: DAADVOptions) -> None:
        self.options = options
        self.networks = nn.ModuleDict({"S": Segmenter(width), "D": Discriminator(width)})

    @property
    def turns(self) -> tuple[Turn, ...]:
        """D, then S."""
        return Turn(("D",), self.discriminator_terms), Turn(("S",), self.segmenter_terms)

    def discriminator_terms(self, b: Batch, p_s: Tensor, p_t: Tensor) -> Terms:
        """L_D"""
        D = self.networks["D"]
        return {
            "dis_mask": Term(1.0, domain_loss(D(b.mask_s), REAL)),
            "dis_source": Term(0.5, domain_loss(D(p_s), PREDICTED)),
            "dis_target": Term(0.5, domain_loss(D(p_t), PREDICTED)),
        }

    def segmenter_terms(self, b: Batch, p_s: Tensor, p_t: Tensor) -> Terms:
        """L_seg + lambda_adv · ½ (L_adv on source + L_adv on target)"""
        D, half = self.networks["D"], self.options.lambda_adv / 2
        return {
            "seg": Term(1.0, soft_dice_loss(p_s, b.mask_s, sum_over_processes)),
            "adv_source": Term(half, domain_loss(D(p_s), REAL)),
            "adv_target": Term(half, domain_loss(D(p_t), REAL)),
        }
