"""WeakSSDA: WeakUDA, and the masks of those target images that have one, in place of their weak labels; the masks also judge both other teachers.

With Y_t the masks of the labelled target images of the batch, and m, n, w(r) as in WeakUDA:

    L   = w(r_s) · (L_seg + m · lambda_adv · L_adv) + L_t + n · w(r_c) · lambda_cls · L_cls
          L_t = soft Dice of S(I_t) against Y_t
          r_s = IoU of [T(I_t) >= 1/2] and Y_t: what S, taught by the source above all, makes of images whose truth is known;
                w(r_s) is 1 for the first fifth of the training, and where no image of the batch has a mask, or they show no nucleus and T sees none;
                the cross-entropy against the source's masks is weighed alike
          r_c = IoU of C(I_t) and Y_t, or the teacher where there is no mask, over plausible images

A source whose nuclei are something else than the target's holds S back, for one network cannot have both. Where the domains agree w(r_s) stays near 1.
"""

import torch
from torch import Tensor

from celladapt.batch import Batch
from celladapt.methods.cellsegssda import labelled_dice
from celladapt.methods.weakuda import WARM_UP, WeakUDA, credit, overlap


class WeakSSDA(WeakUDA):
    """Semi-supervised: L_seg gains the soft Dice loss over the labelled target images of the batch, and the source counts as far as these bear it out. Without any it is WeakUDA.

    Where the classical segmentation is not plausible images with a mask meet the adversary like those without, as in CellSegSSDA.
    """

    target_masks = True
    equations = WeakUDA.equations | {
        "seg": "L_seg: soft Dice of S against the masks, those of the source as far as its pupil agrees with the target's",
        "adv": f"{WeakUDA.equations['adv']}, weighed like the masks of the source",
    }

    def weakly_taught(self, b: Batch) -> Tensor:
        """[B] bool: images without a mask."""
        return ~b.labelled_t

    def reference(self, b: Batch) -> Tensor:
        """[B, 1, H, W] in [0, 1]: the mask where there is one, else the teacher's prediction."""
        return torch.where(b.labelled_t.view(-1, 1, 1, 1), b.mask_t, b.teacher_t)

    def source_weight(self, b: Batch) -> Tensor | float:
        """w(r_s)"""
        if b.progress < WARM_UP:
            return 1.0
        return credit(overlap(b.teacher_t, b.mask_t, b.labelled_t, empty=1.0))

    def supervised_loss(self, b: Batch, p_s: Tensor, p_t: Tensor) -> Tensor:
        """L_seg: source masks as far as the source counts, and target masks where they exist."""
        return self.source_weight(b) * super().supervised_loss(b, p_s, p_t) + labelled_dice(b, p_t)
