"""WeakUDA: weak target labels from a classical segmentation where it has the shape of nuclei, an adversary where it has not.

Per step, first D, then S, with m the share of the target images of the batch in which C is not plausible:

    L_D = m · BCE(D(S(I_s)), source) + m · BCE(D(S(I_t)), target), over these images
    L   = L_seg + n · w(r) · lambda_cls · L_cls + m · lambda_adv · L_adv
          L_seg = soft Dice of S(I_s) against Y_s
          L_cls = soft Dice of S(I_t) against C(I_t), over plausible images and the pixels in them that the teacher does not deny
          L_adv = BCE(D(S(I_t)), source), over the images that are not plausible
          n     = share of the images with a weak label in which C is plausible
          r     = IoU of [T(I_t) >= 1/2] and C(I_t) over these;  w(r) = 0 up to 0.4, 1 from 0.7 on, a straight line between

C is a segmentation that learns nothing (``celladapt.classical``: stain or intensity, Otsu's threshold). An image is plausible if what C sees in it is as solid
as nuclei are (area by area of the convex hull): where C takes stroma or cytoplasm for nuclei its pieces are ragged, in whatever tissue. So C is judged by
itself, before S has any part in it. T is the average of S over the steps (Tarvainen and Valpola, NeurIPS 2017). C's mistakes are not those of a network trained
on the source: where two so different witnesses agree, both are likely to be right, and then C's outlines are of the target while S's are of the source. For
the first fifth of the training w is 0, so that T learns from the source alone what a nucleus is; if C sees something else, r stays low and C teaches nothing.
A pixel with |T(I_t) - C(I_t)| > doubt is left out as a mistake of C. The idea of two views that teach each other where they agree is co-training (Blum and
Mitchell, COLT 1998); this form of it is ours.

Where C is not plausible D tells S what predictions on the source look like: the output-space adversary of CellSegUDA (Haq and Huang, MIDL 2020), without its
reconstruction and with a greater weight, that acts within a few hundred steps.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from celladapt.batch import Batch
from celladapt.losses import Domain, domain_loss, soft_dice_loss
from celladapt.methods import Method, Term, Terms, Turn
from celladapt.networks import Discriminator, Segmenter
from celladapt.parallel import sum_over_processes, world_size

WARM_UP = 0.2
"""Share of the training after which the classical segmentation may teach; before, the source alone does."""
STRANGERS, FRIENDS = 0.4, 0.7
"""Agreement r up to which the classical segmentation is not believed at all, and from which on it is believed fully."""


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
        "seg": "L_seg: soft Dice of S against the masks",
        "cls": "L_cls: soft Dice of S on the target against the classical segmentation, but for pixels that the teacher denies",
        "adv": "L_adv = BCE(D(S(I_t)), source): S passing target predictions as source, where the classical segmentation is not plausible",
    }

    def __init__(self, width: int, options: WeakUDAOptions) -> None:
        self.options = options
        self.networks = nn.ModuleDict({"S": Segmenter(width), "D": Discriminator(width)})

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
        """L_seg + n · w(r) · lambda_cls · L_cls + m · lambda_adv · L_adv"""
        D, c = self.networks["D"], self.options
        weak, silent = self.weakly_taught(b), _silent(b, p_t)
        n, w = trust(b, weak, self.reference(b))
        believed = (_as_plane(weak & b.plausible_t) & ((b.teacher_t - b.classical_t).abs() <= c.doubt)).to(p_t.dtype)
        return {
            "seg": Term(1.0, self.supervised_loss(b, p_s, p_t)),
            "cls": Term(c.lambda_cls, n * w * soft_dice_loss(p_t * believed, b.classical_t * believed, sum_over_processes)),
            "adv": Term(c.lambda_adv, b.source_weight * domain_loss(D(p_t), Domain.SOURCE, silent)),
        }

    def weakly_taught(self, b: Batch) -> Tensor:
        """[B] bool: images whose weak label counts; all of them."""
        return torch.ones_like(b.plausible_t)

    def reference(self, b: Batch) -> Tensor:
        """[B, 1, H, W] in [0, 1]: what the classical segmentation is judged by; the teacher's prediction."""
        return b.teacher_t

    def supervised_loss(self, b: Batch, p_s: Tensor, p_t: Tensor) -> Tensor:
        """L_seg: the source masks alone."""
        return soft_dice_loss(p_s, b.mask_s, sum_over_processes)


def trust(b: Batch, weak: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """n, of the images [B] bool whose weak label counts, and w(r) by ``reference`` in every image where C is plausible; w is 0 during the warm-up.

    Returns:
        Scalars in [0, 1].
    """
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
