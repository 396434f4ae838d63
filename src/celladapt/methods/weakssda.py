"""WeakSSDA: WeakUDA, and the masks of those target images that have one, in place of their weak labels."""

from torch import Tensor

from celladapt.batch import Batch
from celladapt.methods.cellsegssda import labelled_dice
from celladapt.methods.weakuda import WeakUDA


class WeakSSDA(WeakUDA):
    """Semi-supervised: L_seg gains the soft Dice loss over the labelled target images of the batch. Without any it is WeakUDA.

    Where the classical segmentation is not plausible images with a mask meet the adversary like those without, as in CellSegSSDA.
    """

    target_masks = True

    def weakly_taught(self, b: Batch) -> Tensor:
        """[B] bool: images without a mask."""
        return ~b.labelled_t

    def supervised_loss(self, b: Batch, p_s: Tensor, p_t: Tensor) -> Tensor:
        """L_seg: source masks, and target masks where they exist."""
        return super().supervised_loss(b, p_s, p_t) + labelled_dice(b, p_t)
