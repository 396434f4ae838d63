"""Supervised: a U-Net trained on target masks. The upper bound, for a target that somebody did annotate."""

from torch import Tensor, nn

from celladapt.batch import Batch
from celladapt.losses import Domain, soft_dice_loss
from celladapt.methods import Method, NoOptions, Term, Terms, Turn
from celladapt.networks import Segmenter
from celladapt.parallel import sum_over_processes


class Supervised(Method):
    """Reads only target images that have a mask; the source is not used."""

    reads = frozenset({Domain.TARGET})
    target_masks = True
    equations = {"seg": "L_seg: soft Dice of S against the target masks"}

    def __init__(self, width: int, options: NoOptions) -> None:
        self.networks = nn.ModuleDict({"S": Segmenter(width)})

    @property
    def turns(self) -> tuple[Turn, ...]:
        """S alone."""
        return (Turn(("S",), self.segmenter_terms),)

    def segmenter_terms(self, b: Batch, p_s: Tensor, p_t: Tensor) -> Terms:
        """L_seg, on the target"""
        return {"seg": Term(1.0, soft_dice_loss(p_t, b.mask_t, sum_over_processes))}
