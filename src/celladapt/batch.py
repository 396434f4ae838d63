"""What one training step sees."""

from dataclasses import dataclass, fields

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
    """[B, 1, H', W'] in {0, 1}; all 0 where the image has no mask that the run may use"""
    labelled_t: Tensor
    """[B] bool: which target images have a mask"""

    def pinned(self) -> "Batch":
        """The same batch in memory from which a GPU copies without holding up the host; only where there is a GPU."""
        return Batch(**{f.name: getattr(self, f.name).pin_memory() for f in fields(self)})

    def to(self, device: torch.device) -> "Batch":
        """The same batch on ``device``, images channels-last (the layout convolutions are fastest in)."""
        return Batch(**{f.name: _move(getattr(self, f.name), device) for f in fields(self)})


def _move(x: Tensor, device: torch.device) -> Tensor:
    x = x.to(device, non_blocking=True)
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
