"""WeakUDA: the masks of a classical segmentation where they have the shape of nuclei, an adversary where they have not.

Per step, first D, then S, with m the share of the target images of the batch in which C is not plausible and stands for no mask:

    L_D = m · BCE(D(S(I_s)), source) + m · BCE(D(S(I_t)), target), over these images
    L   = (1 - c) · w_s · (L_seg + m · lambda_adv · L_adv) + L_t
          L_seg = soft Dice of S(I_s) against Y_s
          L_adv = BCE(D(S(I_t)), source), over these images
          L_t   = soft Dice of S(I_t) against Y_t, over the images in which C(I_t) stands for a mask Y_t; the loop adds cross-entropy, as against any mask of the target
          c     = 0 if C stands for no mask in the batch, else the mean over its target images of how far the outlines of C are trusted, 0 in those without a Y_t; trusted not at all
                  up to a solidity of 0.86, wholly from 0.91 on, a straight line between
          w_s   = how far the masks Y_t bear out what the source teaches (``celladapt.source_weight``), judged after the first tenth of the training, and 1 in it

C is a segmentation that learns nothing (``celladapt.classical``: stain or intensity, Otsu's threshold). An image is plausible if what C sees in it is as solid
as nuclei are (area by area of the convex hull): where C takes stroma or cytoplasm for nuclei its pieces are ragged, in whatever tissue. It is passable if it is plausible, or nearly, and the image falls in two classes
(Otsu's separability). So C is judged by
itself, before S has any part in it. Where fewer than half of a domain's images are passable none is heard (``data.pairs.Stream.heard``): one of many has the shape of nuclei by accident. T is the average of S over the steps (Tarvainen and Valpola, NeurIPS 2017). For the first tenth of the training the source alone teaches what a nucleus
is. Then C stands for a mask in the passable images of a batch if T marks at least half of what C sees in them: two witnesses that share no mistake then agree on where nuclei are, and on how far
they reach C is the better one, for its outlines are of the target. T's own claims are not asked for: a network from another domain marks too much far more often than too little. The idea of two
views that teach each other is co-training (Blum and Mitchell, COLT 1998); this form of it is ours.

The source teaches what a nucleus is; with 1 - c it then makes way for C as far as C is sure to tell nuclei's outlines, for the source's annotators may have drawn them otherwise. Where C
stands for no mask the masks there are may be one, drawn again and again, and the source stays.

Where C stands for no mask and is not plausible D tells S what predictions on the source look like: the output-space adversary of CellSegUDA (Haq and Huang, MIDL 2020), without its
reconstruction and with a greater weight, that acts within a few hundred steps.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from celladapt.batch import Batch, as_plane
from celladapt.classical import SEEN_TOO
from celladapt.losses import Domain, domain_loss, soft_dice_loss
from celladapt.methods import Method, Term, Terms, Turn
from celladapt.methods.cellsegssda import labelled_dice
from celladapt.networks import Discriminator, Segmenter
from celladapt.parallel import sum_over_processes, world_size
from celladapt.source_weight import judged, shared_pixels, unjudged

WARM_UP = 0.1
"""Share of the training after which the classical segmentation may teach."""
FULLY = 0.9
"""A source that is believed so far, or a classical segmentation that is heard so often, is nothing to speak of."""


@dataclass(frozen=True)
class WeakUDAOptions:
    """Weight of the adversary."""

    lambda_adv: float = 0.03
    """Weight of the adversarial loss, where the classical segmentation does not have the shape of nuclei."""


class WeakUDA(Method):
    """Unsupervised: target masks are never read."""

    Options = WeakUDAOptions
    taught = classical = True
    warm_up = WARM_UP
    equations = {
        "dis_source": "BCE(D(S(I_s)), source): D on source predictions, by the share of images where the classical segmentation is not plausible",
        "dis_target": "BCE(D(S(I_t)), target): D on target predictions, where the classical segmentation is not plausible",
        "seg": "L_seg: soft Dice of S against the masks, those of the source as far as the target's, or what stands for them, bear out what it teaches, and less where the classical segmentation stands for masks and its outlines are trusted",
        "adv": "L_adv = BCE(D(S(I_t)), source): S passing target predictions as source, where the classical segmentation is not plausible; weighed like the masks of the source",
    }

    def __init__(self, width: int, options: WeakUDAOptions) -> None:
        self.options = options
        self.networks = nn.ModuleDict({"S": Segmenter(width), "D": Discriminator(width)})
        self.memory = {**unjudged(), "heard": torch.zeros(2)}

    @property
    def turns(self) -> tuple[Turn, ...]:
        """D, then S."""
        return Turn(("D",), self.discriminator_terms), Turn(("S",), self.segmenter_terms)

    def discriminator_terms(self, b: Batch, p_s: Tensor, p_t: Tensor) -> Terms:
        """L_D"""
        D, silent = self.networks["D"], _silent(b, p_t)
        # Of all processes: each of their source images weighs the same, wherever the silent ones are.
        m = sum_over_processes(silent.mean()) / world_size()
        return {
            "dis_source": Term(1.0, m * domain_loss(D(p_s), Domain.SOURCE)),
            "dis_target": Term(1.0, domain_loss(D(p_t), Domain.TARGET, silent)),
        }

    def segmenter_terms(self, b: Batch, p_s: Tensor, p_t: Tensor) -> Terms:
        """(1 - c) · w_s · (L_seg + m · lambda_adv · L_adv) + L_t"""
        D = self.networks["D"]
        return {
            "seg": Term(1.0, self.supervised_loss(b, p_s, p_t)),
            "adv": Term(self.options.lambda_adv, b.source_weight * domain_loss(D(p_t), Domain.SOURCE, _silent(b, p_t))),
        }

    def supervised_loss(self, b: Batch, p_s: Tensor, p_t: Tensor) -> Tensor:
        """(1 - c) · w_s · L_seg + L_t"""
        return b.source_weight * soft_dice_loss(p_s, b.mask_s, sum_over_processes) + labelled_dice(b, p_t)

    def taken(self, b: Batch) -> Batch:
        """With C for a mask where it may stand for one, if the teacher marks enough of what it sees there, and so do the masks where there are some.

        That is asked of a batch: in one crop there may be a nucleus or none. Where C sees nothing in any crop without a mask nobody has agreed to anything.
        """
        given = b.labelled_t & self.target_masks
        may = b.stands_t & ~given
        here, there = (as_plane(images) & (b.classical_t >= 0.5) for images in (may, given & b.plausible_t))
        counts = torch.stack([(here & (b.teacher_t >= 0.5)).sum(), here.sum(), (there & (b.mask_t >= 0.5)).sum(), there.sum(), may.sum()])
        taught, seen, masked, seen_there, images = sum_over_processes(counts.to(b.mask_t.dtype))
        agreed = (taught > 0) & (taught >= SEEN_TOO * seen) & (masked >= SEEN_TOO * seen_there)
        stands = may & agreed & (b.progress >= WARM_UP)
        if b.progress >= WARM_UP:
            asked = images * (seen > 0)
            heard = torch.stack([asked * agreed, asked]).float()
            self.memory = {**self.memory, "heard": self.memory["heard"].to(heard) + heard}
        return replace(b, mask_t=torch.where(as_plane(stands), b.classical_t, b.mask_t), labelled_t=given | stands, stands_t=stands)

    def source_weight(self, b: Batch, p_s: Tensor) -> Tensor:
        """(1 - c) · w_s"""
        every = torch.ones(len(p_s), dtype=torch.bool, device=p_s.device)
        here = torch.stack(
            [
                shared_pixels(b.mask_t, b.mask_t, b.labelled_t),
                shared_pixels(b.teacher_t, b.mask_t, b.labelled_t),
                shared_pixels(p_s, b.mask_s, every),
                torch.stack([(b.labelled_t * b.trust_t).sum(), b.stands_t.sum()]).float() / len(b.labelled_t),
            ]
        )
        here = sum_over_processes(here)
        trusted, stands = here[3] / world_size()
        before = {name: self.memory[name].to(here) for name in unjudged()}
        self.memory = {**self.memory, **judged(before, here[1:3], here[0, 0], b.progress >= WARM_UP)}
        c = torch.where(stands > 0, trusted, 0.0)
        return (1 - c) * self.memory["w_s"]

    def remarks(self) -> list[str]:
        """How often the classical segmentation was not believed, and how far the source was, where that is worth a word."""
        return [*self._unheard(), *self._discounted()]

    def _unheard(self) -> list[str]:
        heard, asked = self.memory["heard"].tolist()
        if heard >= FULLY * asked:
            return []
        judges = "the source's model, or the masks of the target," if self.target_masks else "the source's model"
        return [
            f"Of the target images drawn in which the classical segmentation could have stood for a mask, it did in {heard / asked:.0%}: in the others {judges} marked less than half of what it sees."
        ]

    def _discounted(self) -> list[str]:
        w_s = float(self.memory["w_s"])
        if w_s >= FULLY:
            return []
        text = f"The masks of the target, or what stood for them, do not bear out all that the source teaches: by the end of training it counted {w_s:.0%} of what it would have."
        return [text if w_s >= 0.5 else f"{text} More masks of the target are likely to help more than more source images."]


def _silent(b: Batch, p_t: Tensor) -> Tensor:
    """[B], of the dtype of ``p_t``: 1 for images in which the classical segmentation is not plausible and stands for no mask, else 0."""
    return (~b.plausible_t & ~b.stands_t).to(p_t.dtype)
