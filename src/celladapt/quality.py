"""How good is a model on images that nobody annotated? An estimate of its IoU with an interval, from the clues of ``selection``, and the masks it was given.

A ridge regression from the clues to the angle arcsin √IoU, fitted to many models on many annotated domains (``benchmarks.quality`` writes
``quality.json``). The interval reaches as far as the estimate was off for nine models in ten, and for nine adapted ones in ten, on targets left out of the fit, as in split conformal prediction
(Vovk et al. 2005; Lei et al. 2018); models on one target are alike, so with few targets nine in ten is what was seen, and no guarantee.

Images in fewer than half of which the classical segmentation is plausible are a case apart, with an interval of its own: there two of the four clues are mute, and a third one misleads.

A model that has learned from the classical segmentation agrees with it, right or wrong. So it is estimated by a fit to such models alone, too, from the two clues that ask
for the shape of nuclei, and the lower of the two estimates is told: the other one says when it fails.

A model that was given masks of the target is known on those images, where the clues may be wrong: the angle of what they promise is moved by as much as it was off there,
less what a model is better on images that it has learned from.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from celladapt.shape import WITNESS

UNWITNESSED = "_unwitnessed"
"""Ends the names of radii for images in fewer than half of which the classical segmentation is plausible."""
CLEARLY = 0.02
"""By so much more IoU must source-only be preferred to be kept: less is not told apart by the clues, and adapted models are the better ones nearly always (docs/results.md)."""
LOW = 0.5
"""An expected IoU below this is worth a warning."""
UNTOLD = "what IoU to expect cannot be told without masks of images like these: look at the masks before using them, and annotate some images"
"""For people, where the interval is all there is."""


@dataclass(frozen=True)
class Known:
    """How a model does on images of the target whose masks it was given."""

    iou: float
    """Foreground IoU, mean over the images, in [0, 1]."""
    clues: Mapping[str, float]
    """``selection.clues`` there."""
    images: int

    @classmethod
    def of(cls, about: Mapping[str, Any]) -> "Known | None":
        """What the header of a model or a run's record knows of it; None where that is nothing, or no such thing."""
        try:
            found = cls(**about["known"])
            clues = {str(name): float(score) for name, score in found.clues.items()}
            return cls(float(found.iou), clues, int(found.images)) if 0 <= found.iou <= 1 and found.images > 0 else None
        except (AttributeError, KeyError, TypeError, ValueError):
            return None


def may_know_classical(about: Mapping[str, Any]) -> bool:
    """Whether the model with this header is of a method that learns from the classical segmentation, which its clues compare it with, where that can teach."""
    return about.get("classical") is True


@dataclass(frozen=True)
class Expectation:
    """Expected foreground IoU on unlabelled images, each in [0, 1]."""

    iou: float
    low: float
    high: float
    masks: int = 0
    """On how many images whose masks the model was given it was judged for that."""

    @property
    def told(self) -> bool:
        """Whether there is anything to go by: whether the interval leaves anything out."""
        return self.high - self.low < 1

    @property
    def how(self) -> str:
        """What it is estimated from, for people."""
        return by_masks(self.masks) if self.masks else "without masks"

    @property
    def words(self) -> str:
        """For people."""
        if not self.told:
            return UNTOLD
        text = f"expected IoU {self.iou:.2f} ({self.low:.2f} to {self.high:.2f}), estimated {self.how}"
        return text + (": low, look at the masks before using them" if self.iou < LOW else "")


def by_masks(images: int) -> str:
    """How an IoU was estimated for which a model was judged on ``images`` images whose masks it was given, for people."""
    return f"by how it does on {'an image' if images == 1 else f'{images} images'} whose mask{'' if images == 1 else 's'} it was given, for images like those"


def expected_iou(
    scores: Mapping[str, float], fitted: Mapping[str, Any] | None = None, alone: bool = False, known: Known | None = None, classical: bool = False
) -> Expectation:
    """What IoU to expect where ``selection.clues`` gave ``scores``.

    Args:
        scores: criterion -> score.
        fitted: as ``calibration``, which is taken by default.
        alone: of a single image, for which the interval is no narrower than for the mean of several.
        known: of a model that was given masks; it is not expected to be better than there, unless the clues alone say so. One that lacks a criterion has no part.
        classical: of a model that has learned from the classical segmentation; of no account for one that was given masks, which tell what that leads to.

    Raises:
        KeyError: a criterion is missing.
    """
    c = calibration() if fitted is None else fitted
    if not _usable(scores, c):
        return Expectation(0.0, 0.0, 0.0)  # a network that is broken
    known = known if known is not None and _has_clues_of(c, known) else None
    iou = estimate(scores, c, known, classical)
    name = "radius_alone" if alone else "radius"
    # Masks of images like these, in which the classical segmentation is not plausible either, say how far that leads astray.
    sure = witnessed(scores) or (known is not None and known.clues.get("witnessed", 1.0) < 1)
    radius: float = c[f"{name}{'' if sure else UNWITNESSED}"]
    if known:
        radius = max(radius, c["radius_known_alone" if alone else "radius_known"])
    return Expectation(iou, max(0.0, iou - radius), min(1.0, iou + radius), known.images if known else 0)


def witnessed(scores: Mapping[str, float]) -> bool:
    """Whether the classical segmentation has a say in the images that gave ``scores``."""
    return scores.get("witnessed", 1.0) >= WITNESS


def estimate(scores: Mapping[str, float], fitted: Mapping[str, Any], known: Known | None = None, classical: bool = False) -> float:
    """The IoU of ``expected_iou`` without its interval, for which ``fitted`` needs no radius; the scores are finite, and what is known has the clues of the fit."""
    promised = _promised(scores, fitted)
    iou = _share(promised)
    if known is None:
        return min(iou, _share(_promised(scores, fitted["classical"]))) if classical else iou
    moved = promised + angle(known.iou) - _promised(known.clues, fitted) - fitted["optimism"]
    return min(_share(moved), max(iou, known.iou))


def _has_clues_of(c: Mapping[str, Any], known: Known) -> bool:
    """Whether what is known of a model has the clues of this fit; one of another version may lack some."""
    return known.clues.keys() >= {name for name, *_ in c["criteria"]} and _usable(known.clues, c)


def _usable(scores: Mapping[str, float], c: Mapping[str, Any]) -> bool:
    return all(math.isfinite(scores[name]) for name, *_ in c["criteria"])


def _promised(scores: Mapping[str, float], c: Mapping[str, Any]) -> float:
    """Angle of the IoU that the clues promise."""
    x = [(min(max(scores[name], low), high) - mean) / scale for name, mean, scale, low, high in c["criteria"]]
    return _bounded(c["intercept"] + sum(w * v for w, v in zip(c["weights"], x, strict=True)))


def angle(share: float) -> float:
    """arcsin √share, in [0, π/2]: the transformation of proportions (Bartlett 1936); near 0, where nobody tells models apart, it makes less of a difference than the logit."""
    return math.asin(math.sqrt(share))


def _bounded(angle: float) -> float:
    return min(max(angle, 0.0), math.pi / 2)


def _share(angle: float) -> float:
    return math.sin(_bounded(angle)) ** 2


def preference(scores: Mapping[str, float]) -> float:
    """Of two models on the same images the one with more is likely to be the better one; in [0, 1].

    Apart from ``expected_iou``, which counts agreement with the classical segmentation also where that does not have the shape of nuclei: that tells how hard
    the images are, but there a model that agrees more is no better.

    Args:
        scores: criterion -> score, of ``selection.clues``.
    """
    compared = calibration()["compared"]
    return estimate(scores, compared) if _usable(scores, compared) else 0.0


def falls_back(before: float, after: float) -> bool:
    """Whether source-only is kept, by the ``preference`` for it and for the adapted model."""
    return before > after + CLEARLY


@cache
def calibration() -> dict[str, Any]:
    """Fitted numbers: ``criteria`` [[name, mean, scale, lowest, highest seen]], ``weights``, ``intercept``, ``radius`` and ``radius_alone`` of the intervals, and the same with ``UNWITNESSED``; the first three
    also under ``compared``, for ``preference``, and under ``classical``, for models that have learned from the classical segmentation; ``optimism`` (an angle), ``radius_known`` and ``radius_known_alone`` for models that were given masks; and what they rest on."""
    return dict(json.loads((resources.files("celladapt") / "quality.json").read_text(encoding="utf-8")))
