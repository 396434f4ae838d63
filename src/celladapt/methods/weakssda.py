"""WeakSSDA: WeakUDA, and the masks of those target images that have one, in place of their weak labels; the masks also judge both other teachers.

With Y_t the masks of the labelled target images of the batch, and m, n, w(r) as in WeakUDA:

    L   = w_s · (L_seg + m · lambda_adv · L_adv) + L_t + n · w(r_c) · lambda_cls · L_cls
          L_t = soft Dice of S(I_t) against Y_t
          w_s = the least that w(r_t / r_s) has been since the first fifth of the training, and 1 in it;
                the cross-entropy against the source's masks is weighed alike
          r_t = IoU of [T(I_t) >= 1/2] and Y_t, r_s = IoU of [S(I_s) >= 1/2] and Y_s, both over the pixels of the last steps whose Y_t has a nucleus, each counting 0.9
                times as much as the next; asked only after seven of these and where r_s is above 0.4, for an S that has not learned the source says nothing of it
          r_c = IoU of C(I_t) and Y_t, or the teacher where there is no mask, over plausible images
          n   is 1 in a batch that has images without a mask, as only plausible ones are drawn (``data.pairs.Stream``)

A source whose nuclei are something else than the target's holds S back, for one network cannot have both: S is then much worse where the target's masks are than
on the source. It never counts more than it has: without it S fits these masks, and that is not the source's doing.
"""

import torch
from torch import Tensor

from celladapt.batch import Batch
from celladapt.methods.cellsegssda import labelled_dice
from celladapt.methods.weakuda import STRANGERS, WARM_UP, WeakUDA, WeakUDAOptions, credit, overlap, shared_pixels
from celladapt.parallel import sum_over_processes

FORGETS = 0.1
"""Share of what was seen before that each step forgets in judging the source."""
ENOUGH = 5.0
"""Steps, so discounted, from which on it is judged; there are never more than ten."""
FULLY = 0.9
"""A source that counts so much is nothing to speak of."""


class WeakSSDA(WeakUDA):
    """Semi-supervised: L_seg gains the soft Dice loss over the labelled target images of the batch, and the source counts as far as these bear it out. Without any it is WeakUDA.

    Where the classical segmentation is not plausible, images with a mask meet the adversary, as in CellSegSSDA. Images without one are not drawn there, unless no
    image has a mask: there is nothing to learn from them that a mask does not say better.
    """

    target_masks = True
    equations = WeakUDA.equations | {
        "seg": "L_seg: soft Dice of S against the masks, those of the source as far as the target's bear out what it teaches",
        "adv": f"{WeakUDA.equations['adv']}, weighed like the masks of the source",
    }

    def __init__(self, width: int, options: WeakUDAOptions) -> None:
        super().__init__(width, options)
        self.memory = {"pixels": torch.zeros(2, 2), "steps": torch.zeros(()), "w_s": torch.ones(())}

    def weakly_taught(self, b: Batch) -> Tensor:
        """[B] bool: images without a mask."""
        return ~b.labelled_t

    def reference(self, b: Batch) -> Tensor:
        """[B, 1, H, W] in [0, 1]: the mask where there is one, else the teacher's prediction."""
        return torch.where(b.labelled_t.view(-1, 1, 1, 1), b.mask_t, b.teacher_t)

    def source_weight(self, b: Batch, p_s: Tensor) -> Tensor:
        """w_s"""
        every = torch.ones(len(p_s), dtype=torch.bool, device=p_s.device)
        here = torch.stack(
            [
                shared_pixels(b.mask_t, b.mask_t, b.labelled_t),
                shared_pixels(b.teacher_t, b.mask_t, b.labelled_t),
                shared_pixels(p_s, b.mask_s, every),
            ]
        )
        here = sum_over_processes(here)
        before = {name: value.to(here) for name, value in self.memory.items()}
        # Where no nucleus is annotated a single wrong pixel would be all wrong.
        tells = here[0, 0] > 0
        pixels = torch.where(tells, (1 - FORGETS) * before["pixels"] + here[1:], before["pixels"])
        steps = torch.where(tells, (1 - FORGETS) * before["steps"] + 1, before["steps"])
        r_t, r_s = map(overlap, pixels)
        judged = (b.progress >= WARM_UP) & (steps > ENOUGH) & (r_s > STRANGERS)
        w_s = torch.where(judged, torch.minimum(before["w_s"], credit(r_t / r_s)), before["w_s"])
        self.memory = {"pixels": pixels, "steps": steps, "w_s": w_s}
        return w_s

    def remarks(self) -> list[str]:
        """How much the source counted in the end, where that is not nearly all."""
        w_s = float(self.memory["w_s"])
        if w_s >= FULLY:
            return []
        text = f"The masks of the target do not bear out all that the source teaches: at the end of training the source counted {w_s:.0%}."
        return [text if w_s >= 0.5 else f"{text} More masks of the target are likely to help more than more source images."]

    def supervised_loss(self, b: Batch, p_s: Tensor, p_t: Tensor) -> Tensor:
        """L_seg: source masks as far as the source counts, and target masks where they exist."""
        return b.source_weight * super().supervised_loss(b, p_s, p_t) + labelled_dice(b, p_t)
