"""Scores of a segmenter in the middle of training, without target labels unless the user asked for the labelled pick."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from celladapt import selection
from celladapt.classical import Witness
from celladapt.metrics import foreground
from celladapt.networks import Segmenter
from celladapt.quality import expected_iou
from celladapt.threshold import Teachers, cut_at_half


@dataclass(frozen=True)
class Held:
    """Validation images of one domain."""

    images: list[Tensor]
    """[3, H, W] each, normalised."""
    masks: list[Tensor] = field(default_factory=list)
    """[H, W] bool each, or none at all."""
    classical: list[Witness] = field(default_factory=list)
    """What the classical segmentation sees in each; for the target."""


@dataclass(frozen=True)
class Validator:
    """Scores S on held-out images; higher is better for every criterion.

    Always: what ``selection.scores`` has on the target, ``expected`` (the IoU that they promise), and ``source_iou`` where source masks are at hand.
    ``labelled`` (mean target IoU) only where target masks were handed in, which is the labelled pick.
    """

    source: Held
    target: Held
    device: torch.device
    arithmetic: Callable[[], AbstractContextManager[Any]]
    teachers: Teachers = field(default_factory=Teachers)

    def cut(self, network: Segmenter) -> float:
        """Move the threshold of ``network``, which is in evaluation mode, to 1/2: ``cut_at_half``."""
        return cut_at_half(network, partial(self._probability, network), self.teachers)

    @torch.inference_mode()
    def __call__(self, network: nn.Module, threshold: float = 0.5) -> dict[str, float]:
        """Score ``network``, which is in evaluation mode, and in which ``threshold`` has been moved to 1/2."""
        predict = partial(self._probability, network)
        maps = [predict(x) for x in self.target.images]
        scores = selection.scores(maps, predict, self.target.images, self.target.classical, threshold)
        scores["expected"] = expected_iou(scores).iou
        if self.source.masks:
            scores["source_iou"] = self._iou([predict(x) for x in self.source.images], self.source.masks)
        if self.target.masks:
            scores["labelled"] = self._iou(maps, self.target.masks)
        return scores

    def _probability(self, network: nn.Module, x: Tensor) -> Tensor:
        with self.arithmetic():
            p: Tensor = network(x[None].to(self.device, memory_format=torch.channels_last))
        return p[0, 0].float().cpu()

    @staticmethod
    def _iou(maps: Sequence[Tensor], masks: Sequence[Tensor]) -> float:
        scores = [foreground((p >= 0.5).numpy(), mask.numpy()).iou for p, mask in zip(maps, masks, strict=True)]
        return float(sum(scores) / len(scores))
