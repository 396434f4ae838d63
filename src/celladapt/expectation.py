"""What to expect of a model on images without masks, before anybody looks at them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from celladapt.classical import witness
from celladapt.data.images import read_image
from celladapt.data.sample import evenly, middle
from celladapt.data.slide import is_slide, open_slide, overview, view_at
from celladapt.inputs import find_images
from celladapt.loading import loaded_model
from celladapt.metrics import foreground
from celladapt.model import Prediction, Predictor, as_image
from celladapt.quality import Expectation, Known, expected_iou, may_know_classical
from celladapt.selection import clues
from celladapt.tissue import find_tissue

MOST_IMAGES = 8
SIDE = 512  # px: of a larger image its middle is looked at


def expected_quality(
    model: Predictor | str | Path,
    inputs: str | Path | NDArray[Any] | Iterable[str | Path | NDArray[Any]],
    pixel_size: float | None = None,
    at: float | None = None,
) -> Expectation:
    """Expected IoU of ``model`` on images, by the middle ``SIDE`` pixels square of at most ``MOST_IMAGES`` of them, evenly chosen, with masks cut at a probability of 0.5.

    Args:
        model: a model, or where to load it from.
        inputs: as ``predict`` takes them, or arrays as ``Model.predict`` takes them; no mask is read. Of a slide, the densest tissue.
        pixel_size: µm per pixel of slides that do not say it.
        at: µm per pixel at which slides are seen; by default the model's own.

    Raises:
        InputError: there is no image, or one of those chosen cannot be read.
    """
    model = loaded_model(Path(model)) if isinstance(model, (str, Path)) else model
    some = [inputs] if isinstance(inputs, (str, Path, np.ndarray)) else list(inputs)
    arrays = [item for item in some if isinstance(item, np.ndarray)]
    files = find_images([item for item in some if not isinstance(item, np.ndarray)], outputs=False) if len(arrays) < len(some) or not some else []
    images = [
        middle(as_image(item), SIDE) if isinstance(item, np.ndarray) else part(item, pixel_size, at or model.pixel_size)
        for item in evenly([*files, *arrays], MOST_IMAGES)
    ]
    return expected_by(model, clues_on(model, images), alone=len(images) == 1)


def expected_by(model: Predictor, found: Mapping[str, float], alone: bool) -> Expectation:
    """``quality.expected_iou`` where ``selection.clues`` gave ``found`` for ``model``, with what its header knows; ``alone`` of a single image."""
    return expected_iou(found, alone=alone, known=Known.of(model.about), classical=may_know_classical(model.about))


def known_on(model: Predictor, annotated: Iterable[tuple[NDArray[Any], NDArray[Any]]]) -> Known | None:
    """How ``model`` does on images (H, W, 3), uint8 or uint16, with masks (H, W), not 0 in nuclei; of each at most the middle ``SIDE`` pixels square.

    Images without a nucleus there have no part, as one wrong pixel would make their IoU 0; None where no other is left.
    """
    pairs = [pair for image, mask in annotated if (pair := (middle(image, SIDE), middle(mask, SIDE)))[1].any()]
    if not pairs:
        return None
    seen = [Prediction(model.probability(image)) for image, _ in pairs]
    iou = fmean(foreground(some.mask, mask).iou for some, (_, mask) in zip(seen, pairs, strict=True))
    found = clues_of(seen, (image for image, _ in pairs))
    return Known(iou, found, len(pairs)) if all(map(math.isfinite, found.values())) else None


def clues_on(model: Predictor, images: Sequence[NDArray[Any]]) -> dict[str, float]:
    """``selection.clues`` of what ``model`` predicts for images (H, W, 3), uint8 or uint16."""
    return clues_of([Prediction(model.probability(image)) for image in images], images)


def clues_of(seen: Iterable[Prediction], images: Iterable[NDArray[Any]]) -> dict[str, float]:
    """``selection.clues`` of what was predicted for images (H, W, 3), uint8 or uint16."""
    return clues([torch.from_numpy(prediction.probability) for prediction in seen], [witness(image) for image in images])


def part(path: Path, pixel_size: float | None = None, at: float | None = None) -> NDArray[Any]:
    """At most ``SIDE`` pixels square of an image, to judge it by: its middle, or the densest tissue of a slide.

    Raises:
        InputError: it cannot be read.
    """
    if not is_slide(path):
        return middle(read_image(path), SIDE)
    with open_slide(path, pixel_size) as slide:
        view = view_at(slide, at)
        tissue = find_tissue(overview(slide)).astype(np.float32)
        (h, w), scale = view.shape, view.shape[0] / tissue.shape[0]
        dense = ndimage.uniform_filter(tissue, max(1, round(SIDE / scale)), mode="constant")
        places = np.argwhere(dense >= dense.max() - 1e-6)
        middle_one = places[np.abs(places - places.mean(axis=0)).sum(axis=1).argmin()]
        y, x = (round(float(place) * scale) for place in middle_one)
        top, left = max(0, min(y - SIDE // 2, h - SIDE)), max(0, min(x - SIDE // 2, w - SIDE))
        return view.read(top, left, min(SIDE, h), min(SIDE, w))
