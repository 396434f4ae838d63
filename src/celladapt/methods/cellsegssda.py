"""CellSegSSDA: CellSegUDA, and the masks of those target images that have one (Haq and Huang, MIDL 2020)."""

from torch import Tensor

from celladapt.batch import Batch, as_plane
from celladapt.losses import soft_dice_loss
from celladapt.methods.cellseguda import CellSegUDA
from celladapt.parallel import sum_over_processes


class CellSegSSDA(CellSegUDA):
    """Semi-supervised: L_seg gains the soft Dice loss over the labelled target images of the batch. Without any it is CellSegUDA."""

    target_masks = True

    def supervised_loss(self, b: Batch, p_s: Tensor, p_t: Tensor) -> Tensor:
        """L_seg: source masks, and target masks where they exist."""
        return super().supervised_loss(b, p_s, p_t) + labelled_dice(b, p_t)


def labelled_dice(b: Batch, p_t: Tensor) -> Tensor:
    """Soft Dice over the labelled target images of the batch; without any the sums are 0, and so is the loss."""
    labelled = as_plane(b.labelled_t)  # a factor: to pick images by it a GPU would have to wait for their number
    return soft_dice_loss(p_t * labelled, b.mask_t * labelled, sum_over_processes)
