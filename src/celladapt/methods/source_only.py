"""Source-only: a U-Net trained on the source and used on the target as it is. The bar that adaptation must clear."""

from torch import Tensor, nn

from celladapt.batch import Batch
from celladapt.losses import Domain, soft_dice_loss
from celladapt.methods import Method, NoOptions, Term, Terms, Turn
from celladapt.networks import Segmenter
from celladapt.parallel import sum_over_processes


class SourceOnly(Method):
    """No adaptation term: the target is not read in training (batch-normalisation statistics follow --batch-norm, as for every method)."""

    reads = frozenset({Domain.SOURCE})
    equations = {"seg": "L_seg: soft Dice of S against the source masks"}

    def __init__(self, width: int, options: NoOptions) -> None:
        self.networks = nn.ModuleDict({"S": Segmenter(width)})

    @property
    def turns(self) -> tuple[Turn, ...]:
        """S alone."""
        return (Turn(("S",), self.segmenter_terms),)

    def segmenter_terms(self, b: Batch, p_s: Tensor, p_t: Tensor) -> Terms:
        """L_seg"""
        return {"seg": Term(1.0, soft_dice_loss(p_s, b.mask_s, sum_over_processes))}
