"""WeakSSDA: WeakUDA with the masks of those target images that have one; there they stand where the classical segmentation stands in WeakUDA, and judge it.

    L   = WeakUDA's + n · w(r) · lambda_cls · L_cls
          Y_t   = the masks of the labelled target images, and nothing else where there is any
          L_cls = soft Dice of S(I_t) against C(I_t), over plausible images without a mask in which C may not stand for one, and the pixels in them that the teacher does not deny
          n     = share of the images without a mask in which C is plausible; 1 in a batch that has any, as only these are drawn (``data.pairs.Stream``)
          r     = IoU of C(I_t) and Y_t, or [T(I_t) >= 1/2] where there is no mask, over plausible images; w(r) = 0 in the first tenth of the training

A pixel with |T(I_t) - C(I_t)| > doubt is left out as a mistake of C. Without any mask it is WeakUDA.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from celladapt.batch import Batch, as_plane
from celladapt.losses import soft_dice_loss
from celladapt.methods import Term, Terms
from celladapt.methods.weakuda import WARM_UP, WeakUDA, WeakUDAOptions, credit, overlap, shared_pixels
from celladapt.parallel import sum_over_processes


@dataclass(frozen=True)
class WeakSSDAOptions(WeakUDAOptions):
    """WeakUDA's, and how the classical segmentation teaches beside masks."""

    lambda_cls: float = 1.0
    """Weight of the loss against the classical segmentation, in images without a mask."""
    doubt: float = 0.8
    """A pixel is left out of that where the teacher is further than this from the classical segmentation; 1 believes it everywhere."""


class WeakSSDA(WeakUDA):
    """Semi-supervised: the masks of labelled target images teach, and the source and the classical segmentation count as far as these bear them out. Without any it is WeakUDA.

    Where the classical segmentation is not plausible, images with a mask meet the adversary, as in CellSegSSDA. Images without one are not drawn there, nor where it had to look
    closer, unless no image has a mask: there is nothing to learn from them that a mask does not say better.
    """

    Options = WeakSSDAOptions
    target_masks = True
    equations = WeakUDA.equations | {
        "cls": "L_cls: soft Dice of S on target images without a mask against the classical segmentation, but for pixels that the teacher denies",
    }
    options: WeakSSDAOptions

    def segmenter_terms(self, b: Batch, p_s: Tensor, p_t: Tensor) -> Terms:
        """WeakUDA's + n · w(r) · lambda_cls · L_cls"""
        n, w = trust(b)
        believed = (as_plane(b.plausible_t & ~b.labelled_t & ~b.stands_t) & ((b.teacher_t - b.classical_t).abs() <= self.options.doubt)).to(p_t.dtype)
        cls = n * w * soft_dice_loss(p_t * believed, b.classical_t * believed, sum_over_processes)
        return super().segmenter_terms(b, p_s, p_t) | {"cls": Term(self.options.lambda_cls, cls)}


def trust(b: Batch) -> tuple[Tensor, Tensor]:
    """n, of the images without a mask, and w(r) by the mask where there is one, else the teacher, in every image where C is plausible; w is 0 during the warm-up.

    Returns:
        Scalars in [0, 1].
    """
    weak, reference = ~b.labelled_t, torch.where(as_plane(b.labelled_t), b.mask_t, b.teacher_t)
    plausible, images = sum_over_processes(torch.stack([(weak & b.plausible_t).sum(), weak.sum()]).to(b.classical_t.dtype))
    w = credit(overlap(sum_over_processes(shared_pixels(b.classical_t, reference, b.plausible_t))))
    return plausible / images.clamp(min=1), w if b.progress >= WARM_UP else torch.zeros_like(w)
