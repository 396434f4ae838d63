"""WeakUDA: weak target labels from a classical segmentation where it has the shape of nuclei, an adversary where it has not.

Per step, first D, then S, with m the share of the target images of the batch in which C is not plausible:

    L_D = m · BCE(D(S(I_s)), source) + m · BCE(D(S(I_t)), target), over these images
    L   = w_s · (L_seg + m · lambda_adv · L_adv) + L_t + n · w(r) · lambda_cls · L_cls
          L_seg = soft Dice of S(I_s) against Y_s
          L_cls = soft Dice of S(I_t) against C(I_t), over plausible images and the pixels in them that the teacher does not deny
          L_adv = BCE(D(S(I_t)), source), over the images that are not plausible
          n     = share of the images with a weak label in which C is plausible
          r     = IoU of [T(I_t) >= 1/2] and C(I_t) over these;  w(r) = 0 up to 0.4, 1 from 0.7 on, a straight line between
          L_t   = soft Dice of S(I_t) against Y_t, where C(I_t) stands for a mask Y_t; else 0, and w_s is 1

C is a segmentation that learns nothing (``celladapt.classical``: stain or intensity, Otsu's threshold). An image is plausible if what C sees in it is as solid
as nuclei are (area by area of the convex hull): where C takes stroma or cytoplasm for nuclei its pieces are ragged, in whatever tissue. So C is judged by
itself, before S has any part in it. T is the average of S over the steps (Tarvainen and Valpola, NeurIPS 2017). C's mistakes are not those of a network trained
on the source: where two so different witnesses agree, both are likely to be right, and then C's outlines are of the target while S's are of the source. For
the first fifth of the training w is 0, so that T learns from the source alone what a nucleus is; if C sees something else, r stays low and C teaches nothing.
A pixel with |T(I_t) - C(I_t)| > doubt is left out as a mistake of C. The idea of two views that teach each other where they agree is co-training (Blum and
Mitchell, COLT 1998); this form of it is ours.

Where C is not plausible D tells S what predictions on the source look like: the output-space adversary of CellSegUDA (Haq and Huang, MIDL 2020), without its
reconstruction and with a greater weight, that acts within a few hundred steps.

In a target whose cells are dark all through, C has to look closer to find the nuclei in them, and T, which knows the source, takes the cells for nuclei: it marks what C marks, and far
more. There agreement says nothing and T's denial even less. So where C had to look closer in most images, its word stands for a mask Y_t once T, after the first fifth, marks at
least half of it too, and has cross-entropy as masks have. A mask also judges the source:

    w_s = the least that w(r_t / r_s) has been since the first fifth of the training, and 1 in it
    r_t = IoU of [T(I_t) >= 1/2] and Y_t, r_s = IoU of [S(I_s) >= 1/2] and Y_s, both over the pixels of the last steps whose Y_t has a nucleus, each counting 0.9
          times as much as the next; asked only after seven of these and where r_s is above 0.4, for an S that has not learned the source says nothing of it

A source whose nuclei are something else than the target's holds S back, for one network cannot have both: S is then much worse where the target's masks are than
on the source. It never counts more than it has: without it S fits these masks, and that is not the source's doing.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from celladapt.batch import Batch
from celladapt.losses import Domain, domain_loss, soft_dice_loss
from celladapt.methods import Method, Term, Terms, Turn
from celladapt.methods.cellsegssda import labelled_dice
from celladapt.networks import Discriminator, Segmenter
from celladapt.parallel import sum_over_processes, world_size

WARM_UP = 0.2
"""Share of the training after which the classical segmentation may teach; before, the source alone does."""
STRANGERS, FRIENDS = 0.4, 0.7
"""Agreement r up to which the classical segmentation is not believed at all, and from which on it is believed fully."""
SEEN_TOO = 0.5
"""Share of what it saw by looking closer that the teacher must mark too, for it to stand for a mask."""
FORGETS = 0.1
"""Share of what was seen before that each step forgets in judging the source."""
ENOUGH = 5.0
"""Steps, so discounted, from which on it is judged; there are never more than ten."""
FULLY = 0.9
"""A source that counts so much is nothing to speak of."""


@dataclass(frozen=True)
class WeakUDAOptions:
    """Weights of the weak labels and of the adversary, and when the classical segmentation is not believed."""

    lambda_cls: float = 1.0
    """Weight of the loss against the classical segmentation."""
    lambda_adv: float = 0.03
    """Weight of the adversarial loss, where the classical segmentation does not have the shape of nuclei."""
    doubt: float = 0.8
    """A pixel is left out where the teacher is further than this from the classical segmentation; 1 believes it everywhere."""


class WeakUDA(Method):
    """Unsupervised: target masks are never read."""

    Options = WeakUDAOptions
    taught = classical = True
    equations = {
        "dis_source": "BCE(D(S(I_s)), source): D on source predictions, by the share of images where the classical segmentation is not plausible",
        "dis_target": "BCE(D(S(I_t)), target): D on target predictions, where the classical segmentation is not plausible",
        "seg": "L_seg: soft Dice of S against the masks, those of the source as far as the target's, or what stands for them, bear out what it teaches",
        "cls": "L_cls: soft Dice of S on the target against the classical segmentation, but for pixels that the teacher denies",
        "adv": "L_adv = BCE(D(S(I_t)), source): S passing target predictions as source, where the classical segmentation is not plausible; weighed like the masks of the source",
    }

    def __init__(self, width: int, options: WeakUDAOptions) -> None:
        self.options = options
        self.networks = nn.ModuleDict({"S": Segmenter(width), "D": Discriminator(width)})
        self.memory = {"pixels": torch.zeros(2, 2), "steps": torch.zeros(()), "w_s": torch.ones(())}

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
        """w_s · (L_seg + m · lambda_adv · L_adv) + L_t + n · w(r) · lambda_cls · L_cls"""
        D, c = self.networks["D"], self.options
        silent = _silent(b, p_t)
        n, w = trust(b)
        believed = (_as_plane(~b.labelled_t & b.plausible_t) & ((b.teacher_t - b.classical_t).abs() <= c.doubt)).to(p_t.dtype)
        return {
            "seg": Term(1.0, self.supervised_loss(b, p_s, p_t)),
            "cls": Term(c.lambda_cls, n * w * soft_dice_loss(p_t * believed, b.classical_t * believed, sum_over_processes)),
            "adv": Term(c.lambda_adv, b.source_weight * domain_loss(D(p_t), Domain.SOURCE, silent)),
        }

    def supervised_loss(self, b: Batch, p_s: Tensor, p_t: Tensor) -> Tensor:
        """w_s · L_seg + L_t"""
        return b.source_weight * soft_dice_loss(p_s, b.mask_s, sum_over_processes) + labelled_dice(b, p_t)

    def taken(self, b: Batch) -> Batch:
        """With C for a mask where it had to look closer, if the teacher marks enough of that too."""
        given = b.labelled_t & self.target_masks
        closer = b.closer_t & ~given
        seen = _as_plane(closer) & (b.classical_t >= 0.5)
        both, all_of_it = sum_over_processes(torch.stack([(seen & (b.teacher_t >= 0.5)).sum(), seen.sum()]).to(b.mask_t.dtype))
        stands = closer & (both >= SEEN_TOO * all_of_it) & (b.progress >= WARM_UP)
        return replace(b, mask_t=torch.where(_as_plane(stands), b.classical_t, b.mask_t), labelled_t=given | stands)

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
        whose = "The masks of the target do" if self.target_masks else "What the classical segmentation sees by looking closer does"
        text = f"{whose} not bear out all that the source teaches: at the end of training the source counted {w_s:.0%}."
        return [text if w_s >= 0.5 else f"{text} More masks of the target are likely to help more than more source images."]


def trust(b: Batch) -> tuple[Tensor, Tensor]:
    """n, of the images without a mask, and w(r) by the mask where there is one, else the teacher, in every image where C is plausible; w is 0 during the warm-up.

    Returns:
        Scalars in [0, 1].
    """
    weak, reference = ~b.labelled_t, torch.where(_as_plane(b.labelled_t), b.mask_t, b.teacher_t)
    plausible, images = sum_over_processes(torch.stack([(weak & b.plausible_t).sum(), weak.sum()]).to(b.classical_t.dtype))
    w = credit(overlap(sum_over_processes(shared_pixels(b.classical_t, reference, b.plausible_t))))
    return plausible / images.clamp(min=1), w if b.progress >= WARM_UP else torch.zeros_like(w)


def shared_pixels(p: Tensor, q: Tensor, images: Tensor) -> Tensor:
    """[2], float32: how many pixels of the chosen ``images`` [B] bool are in both of [p >= 1/2] and [q >= 1/2], and in either; of this process."""
    one, other, here = p >= 0.5, q >= 0.5, _as_plane(images)
    return torch.stack([(here & one & other).sum(), (here & (one | other)).sum()]).float()


def overlap(pixels: Tensor) -> Tensor:
    """r: IoU by ``shared_pixels``; 0 where neither sees anything."""
    both, either = pixels
    r: Tensor = both / either.clamp(min=torch.finfo(either.dtype).tiny)
    return r


def credit(r: Tensor) -> Tensor:
    """w(r)"""
    return ((r - STRANGERS) / (FRIENDS - STRANGERS)).clamp(0, 1)


def _silent(b: Batch, p_t: Tensor) -> Tensor:
    """[B], of the dtype of ``p_t``: 1 for images in which the classical segmentation is not plausible, else 0."""
    return (~b.plausible_t).to(p_t.dtype)


def _as_plane(flags: Tensor) -> Tensor:
    """[B] -> [B, 1, 1, 1]"""
    return flags.view(-1, 1, 1, 1)
