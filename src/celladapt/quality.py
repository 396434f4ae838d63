"""How good is a model on images that nobody annotated? An estimate of its IoU with an interval, from the clues of ``selection`` alone.

A ridge regression from the clues to the logit of the IoU, fitted to many models on many annotated domains (``benchmarks.quality`` writes
``quality.json``). The interval reaches as far as the estimate was off for nine models in ten on targets left out of the fit, as in split conformal prediction
(Vovk et al. 2005; Lei et al. 2018); models on one target are alike, so with few targets nine in ten is what was seen, and no guarantee.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

LOW = 0.5
"""An expected IoU below this is worth a warning."""


@dataclass(frozen=True)
class Expectation:
    """Expected foreground IoU on unlabelled images, each in [0, 1]."""

    iou: float
    low: float
    high: float

    @property
    def words(self) -> str:
        """For people."""
        text = f"expected IoU {self.iou:.2f} ({self.low:.2f} to {self.high:.2f}), estimated without masks"
        return text + (": low, look at the masks before using them" if self.iou < LOW else "")


def expected_iou(scores: Mapping[str, float], fitted: Mapping[str, Any] | None = None, alone: bool = False) -> Expectation:
    """What IoU to expect where ``selection.clues`` gave ``scores``.

    Args:
        scores: criterion -> score.
        fitted: as ``calibration``, which is taken by default.
        alone: of a single image, for which the interval is wider than for the mean of several.

    Raises:
        KeyError: a criterion is missing.
    """
    c = calibration() if fitted is None else fitted
    if not all(math.isfinite(scores[name]) for name, *_ in c["criteria"]):
        return Expectation(0.0, 0.0, 1.0)  # a network that is broken
    x = [(min(max(scores[name], low), high) - mean) / scale for name, mean, scale, low, high in c["criteria"]]
    iou = 1 / (1 + math.exp(-(c["intercept"] + sum(w * v for w, v in zip(c["weights"], x, strict=True)))))
    radius = c["radius_alone" if alone else "radius"]
    return Expectation(iou, max(0.0, iou - radius), min(1.0, iou + radius))


def preference(scores: Mapping[str, float]) -> float:
    """Of two models on the same images the one with more is likely to be the better one; in [0, 1].

    Apart from ``expected_iou``, which counts agreement with the classical segmentation also where that does not have the shape of nuclei: that tells how hard
    the images are, but there a model that agrees more is no better.

    Args:
        scores: criterion -> score, of ``selection.clues``.
    """
    return expected_iou(scores, {**calibration()["compared"], "radius": 0.0}).iou


@cache
def calibration() -> dict[str, Any]:
    """Fitted numbers: ``criteria`` [[name, mean, scale, lowest, highest seen]], ``weights``, ``intercept``, ``radius`` and ``radius_alone`` of the intervals; the first three
    also under ``compared``, for ``preference``; and what they rest on."""
    return dict(json.loads((resources.files("celladapt") / "quality.json").read_text(encoding="utf-8")))
