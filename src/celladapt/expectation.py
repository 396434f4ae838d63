"""What to expect of a model on images without masks, before anybody looks at them."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch

from celladapt.classical import witness
from celladapt.data.images import read_image
from celladapt.data.sample import evenly, middle
from celladapt.hardware import arithmetic
from celladapt.model import Predictor
from celladapt.prediction import find_images
from celladapt.quality import Expectation, expected_iou
from celladapt.validate import Held, Validator

MOST_IMAGES = 8
SIDE = 512  # px: of a larger image its middle is looked at


def expected_quality(model: Predictor, inputs: str | Path | Iterable[str | Path]) -> Expectation:
    """Expected IoU of ``model`` on images, by at most ``MOST_IMAGES`` of them, evenly chosen.

    Args:
        model: any.
        inputs: as ``predict`` takes them; no mask is read.

    Raises:
        InputError: there is no image, or one of those chosen cannot be read.
    """
    return expected_iou(scores_on(model, evenly(find_images(inputs), MOST_IMAGES)))


def scores_on(model: Predictor, paths: Iterable[Path]) -> dict[str, float]:
    """What validation would find on these images, each cut to its middle: every score that needs no mask.

    Raises:
        InputError: an image cannot be read.
    """
    images = [middle(read_image(path), SIDE) for path in paths]
    held = Held([model.normalisation(image) for image in images], classical=[torch.from_numpy(witness(image)) for image in images])
    return Validator(Held([]), held, model.device, partial(arithmetic, model.precision, model.device))(model.network)
