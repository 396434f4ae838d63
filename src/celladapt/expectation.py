"""What to expect of a model on images without masks, before anybody looks at them."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from celladapt.classical import witness
from celladapt.data.images import read_image
from celladapt.data.sample import evenly, middle
from celladapt.data.slide import is_slide, open_slide, overview, view_at
from celladapt.hardware import arithmetic
from celladapt.model import Predictor
from celladapt.prediction import find_images
from celladapt.quality import Expectation, expected_iou
from celladapt.tissue import find_tissue
from celladapt.validate import Held, Validator

MOST_IMAGES = 8
SIDE = 512  # px: of a larger image its middle is looked at


def expected_quality(
    model: Predictor, inputs: str | Path | Iterable[str | Path], pixel_size: float | None = None, at: float | None = None
) -> Expectation:
    """Expected IoU of ``model`` on images, by at most ``MOST_IMAGES`` of them, evenly chosen.

    Args:
        model: any.
        inputs: as ``predict`` takes them; no mask is read. Of a slide, the densest tissue.
        pixel_size: µm per pixel of slides that do not say it.
        at: µm per pixel at which slides are seen; by default the model's own.

    Raises:
        InputError: there is no image, or one of those chosen cannot be read.
    """
    return expected_iou(scores_on(model, evenly(find_images(inputs), MOST_IMAGES), pixel_size, at))


def scores_on(model: Predictor, paths: Iterable[Path], pixel_size: float | None = None, at: float | None = None) -> dict[str, float]:
    """What validation would find on these images, each cut to its middle, or the densest tissue of a slide: every score that needs no mask.

    Raises:
        InputError: an image cannot be read.
    """
    images = [_part(path, pixel_size, at or model.pixel_size) for path in paths]
    held = Held([model.normalisation(image) for image in images], classical=[witness(image) for image in images])
    return Validator(Held([]), held, model.device, partial(arithmetic, model.precision, model.device))(model.network)


def _part(path: Path, pixel_size: float | None, at: float | None) -> NDArray[Any]:
    """At most ``SIDE`` pixels square of an image, to judge it by."""
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
