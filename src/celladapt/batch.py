"""What one training step sees."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Images and masks of both domains; ``_s`` is source, ``_t`` target.

    A domain that the method does not read has batch size 0. Images are float32, normalised by their own domain's mean and standard
    deviation; masks are float32, 0 background and 1 nucleus. Source and target may differ in height and width.
    """

    image_s: Tensor
    """[B, 3, H, W]"""
    mask_s: Tensor
    """[B, 1, H, W] in {0, 1}"""
    image_t: Tensor
    """[B, 3, H', W']"""
    mask_t: Tensor
    """[B, 1, H', W'] in {0, 1}; all 0 where the image has no mask that the run may use, nor, after ``Method.taken``, one that stands for it"""
    labelled_t: Tensor
    """[B] bool: which target images have a mask, or after ``Method.taken`` what stands for one"""
    classical_t: Tensor = field(default_factory=lambda: torch.zeros(0, 1, 32, 32))
    """[B, 1, H', W'] in {0, 1}: what the classical segmentation, which learns nothing, sees in ``image_t``; no channel where the method has no use for it."""
    plausible_t: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    """[B] bool: in which images ``classical_t`` has the shape of nuclei; all false where the method has no use for it."""
    stands_t: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    """[B] bool: in which images without a mask ``classical_t`` may stand for one: passable ones, and where others have masks plausible ones in which it did not have to look closer; after ``Method.taken`` in which it does."""
    trust_t: Tensor = field(default_factory=lambda: torch.zeros(0))
    """[B] float32 in [0, 1]: how far the outlines in ``classical_t`` are to be trusted; all 0 where the method has no use for it."""
    teacher_t: Tensor = field(default_factory=lambda: torch.zeros(0, 1, 32, 32))
    """[B, 1, H', W'] in [0, 1]: the teacher's prediction for ``image_t``, cut from the graph; the loop fills it in."""
    features_s: Tensor = field(default_factory=lambda: torch.zeros(0, 1, 2, 2))
    """[B, 8w, ~H/16, ~W/16]: what the bottom of S sees of ``image_s``; the loop fills it in where the method has a use for it."""
    features_t: Tensor = field(default_factory=lambda: torch.zeros(0, 1, 2, 2))
    """[B, 8w, ~H'/16, ~W'/16]: the same of ``image_t``."""
    source_weight: Tensor = field(default_factory=lambda: torch.ones(()))
    """Scalar in [0, 1]: what the source counts in this step; the loop fills it in, once."""
    progress: float = 1.0
    """Share of the training that is done, in [0, 1]; the loop fills it in."""

    def pinned(self) -> "Batch":
        """The same batch in memory from which a GPU copies without holding up the host; only where there is a GPU."""
        return self._each(Tensor.pin_memory)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on ``device``, images channels-last (the layout convolutions are fastest in)."""
        return self._each(lambda x: _move(x, device))

    def cut(self) -> "Batch":
        """The same batch, cut from the graph."""
        return self._each(Tensor.detach)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        return replace(self, **{f.name: change(value) for f in fields(self) if isinstance(value := getattr(self, f.name), Tensor)})  # type: ignore[arg-type]


def as_plane(flags: Tensor) -> Tensor:
    """[B] -> [B, 1, 1, 1], so that what is known of each image meets its pixels."""
    return flags.view(-1, 1, 1, 1)


def _move(x: Tensor, device: torch.device) -> Tensor:
    x = x.to(device, non_blocking=True)
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
