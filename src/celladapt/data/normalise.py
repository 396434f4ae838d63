"""Each domain is normalised by its own per-channel mean and standard deviation, taken over its training images."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LEAST = 1 / 255
"""A channel that varies by less, a grey level, beside others that vary more, is taken for empty and not scaled: there neither what augmentation adds nor a stray value may pass for many standard deviations."""


def to_unit(image: NDArray[Any]) -> NDArray[np.float32]:
    """uint8 or uint16 of any shape -> float32 in [0, 1]."""
    return np.asarray(image / np.float32(np.iinfo(image.dtype).max), dtype=np.float32)


@dataclass(frozen=True)
class Normalisation:
    """(x - mean) / std per channel, x in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    grey: bool = False
    """Whether the mean of the channels is taken first: for a target in colour whose colours nothing teaches, the source having none."""

    @classmethod
    def of(cls, images: Iterable[NDArray[Any]], grey: bool = False) -> "Normalisation":
        """Statistics over all pixels of ``images``, each [H, W, 3] uint8 or uint16, read one at a time."""
        count, total, squares = 0, np.zeros(3), np.zeros(3)
        for image in images:
            pixels = _unit(image.transpose(2, 0, 1), grey).reshape(3, -1).T.astype(np.float64)
            count, total, squares = count + len(pixels), total + pixels.sum(0), squares + (pixels**2).sum(0)
        mean = total / count
        std = np.sqrt(np.maximum(squares / count - mean**2, 0))
        if std.max() >= LEAST:
            std[std < LEAST] = 1
        std = np.maximum(std, 1e-4)  # a domain that is dim all over is scaled, and one of a single colour must not divide by 0
        return cls(tuple(mean.tolist()), tuple(std.tolist()), grey)

    def __call__(self, image: NDArray[Any]) -> Tensor:
        """[H, W, 3] uint8 or uint16 -> [3, H, W] float32."""
        x = _unit(np.ascontiguousarray(image.transpose(2, 0, 1)), self.grey)  # planes first: see ``augment.colour``
        x -= np.array(self.mean, np.float32)[:, None, None]
        x /= np.array(self.std, np.float32)[:, None, None]
        return torch.from_numpy(x)

    def undo(self, x: Tensor) -> NDArray[np.uint8]:
        """[3, H, W] normalised -> [H, W, 3] uint8, clipped: to look at a reconstruction."""
        unit = x.float().cpu().numpy().transpose(1, 2, 0) * np.array(self.std, np.float32) + np.array(self.mean, np.float32)
        return np.asarray((unit.clip(0, 1) * 255).round(), dtype=np.uint8)


def _unit(planes: NDArray[Any], grey: bool) -> NDArray[np.float32]:
    """(3, H, W) uint8 or uint16 -> float32 in [0, 1], of its own."""
    x = to_unit(planes)
    return np.repeat(x.mean(0, keepdims=True), 3, axis=0) if grey else x
