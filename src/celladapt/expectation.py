"""What to expect of a model on images without masks, before anybody looks at them."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch

from celladapt.classical import classical_mask
from celladapt.data.images import read_image
from celladapt.data.sample import evenly, middle
from celladapt.hardware import arithmetic
from celladapt.prediction import Model, find_images
from celladapt.quality import Expectation, expected_iou
from celladapt.validate import Held, Validator

MOST_IMAGES = 8
SIDE = 512  # px: of a larger image its middle is looked at


def expected_quality(model: Model, inputs: str | Path | Iterable[str | Path]) -> Expectation:
    """Expected IoU of ``model`` on images, by at most ``MOST_IMAGES`` of them, evenly chosen.

    Args:
        model: any.
        inputs: as ``predict`` takes them; no mask is read.

    Raises:
        InputError: there is no image, or one of those chosen cannot be read.
    """
    images = [middle(read_image(path), SIDE) for path in evenly(find_images(inputs), MOST_IMAGES)]
    opinions = [torch.from_numpy(classical_mask(image)) for image in images]
    held = Held([model.normalisation(image) for image in images], classical=opinions)
    return expected_iou(Validator(Held([]), held, model.device, partial(arithmetic, model.precision, model.device))(model.network))
