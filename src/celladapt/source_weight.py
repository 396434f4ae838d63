"""How far the target's masks, or what stands for them, bear out what the source teaches.

    w_s = the least that w(r_t / r_s) has been since the source was first judged, and 1 before;  w(r) = 0 up to 0.4, 1 from 0.7 on, a straight line between
    r_t = IoU of [T(I_t) >= 1/2] and Y_t, r_s = IoU of [S(I_s) >= 1/2] and Y_s, both over the pixels of the last steps whose Y_t has a nucleus, each counting 0.9
          times as much as the next; asked only after seven of these and where r_s is above 0.4, for an S that has not learned the source says nothing of it

S segments, T is its average over the steps; Y_s is the mask of the source image I_s, Y_t that of the target image I_t or what stands for it (``celladapt.methods.weakuda``).
A source whose nuclei are something else than the target's holds S back all along, for one network cannot have both: S is then much worse where the target's masks are than
on the source, which w_s tells. It never grows: without the source S fits these masks, and that is not the source's doing.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from celladapt.batch import as_plane

STRANGERS, FRIENDS = 0.4, 0.7
"""Ratio r up to which the source is not believed at all, and from which on it is believed fully."""
FORGETS = 0.1
"""Share of what was seen before that each step forgets in judging the source."""
ENOUGH = 5.0
"""Steps, so discounted, from which on it is judged; there are never more than ten."""


def unjudged() -> dict[str, Tensor]:
    """What is known of a source before the first step: ``pixels`` [2, 2], ``shared_pixels`` on the target and on the source; ``steps``, how many, both discounted; ``w_s``."""
    return {"pixels": torch.zeros(2, 2), "steps": torch.zeros(()), "w_s": torch.ones(())}


def judged(before: Mapping[str, Tensor], pixels: Tensor, seen: Tensor, due: bool) -> dict[str, Tensor]:
    """What is known of a source a step later, with the keys of ``unjudged``.

    Args:
        before: what was known.
        pixels: [2, 2] float32, ``shared_pixels`` of this step, of all processes: of T and Y_t, and of S and Y_s.
        seen: scalar float32, pixels of nuclei in Y_t, of all processes. Where there is none a single wrong pixel would be all wrong, so nothing is learned from the step.
        due: whether the source may be judged yet.
    """
    pixels = torch.where(seen > 0, (1 - FORGETS) * before["pixels"] + pixels, before["pixels"])
    steps = torch.where(seen > 0, (1 - FORGETS) * before["steps"] + 1, before["steps"])
    r_t, r_s = map(overlap, pixels)
    asked = due & (steps > ENOUGH) & (r_s > STRANGERS)
    return {"pixels": pixels, "steps": steps, "w_s": torch.where(asked, torch.minimum(before["w_s"], credit(r_t / r_s)), before["w_s"])}


def shared_pixels(p: Tensor, q: Tensor, images: Tensor) -> Tensor:
    """[2], float32: how many pixels of the chosen ``images`` [B] bool are in both of [p >= 1/2] and [q >= 1/2], and in either; of this process."""
    one, other, here = p >= 0.5, q >= 0.5, as_plane(images)
    return torch.stack([(here & one & other).sum(), (here & (one | other)).sum()]).float()


def overlap(pixels: Tensor) -> Tensor:
    """r: IoU in [0, 1], a scalar, of ``shared_pixels`` [2]; 0 where neither sees anything."""
    both, either = pixels
    r: Tensor = both / either.clamp(min=torch.finfo(either.dtype).tiny)
    return r


def credit(r: Tensor) -> Tensor:
    """w(r), in [0, 1], of the ratio r >= 0; any shape."""
    return ((r - STRANGERS) / (FRIENDS - STRANGERS)).clamp(0, 1)
