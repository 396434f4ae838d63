"""Many images on one picture, each with the outline of what a model takes for nuclei."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celladapt.data.normalise import to_unit
from celladapt.files import atomic
from celladapt.model import Prediction, Predictor

COLUMNS = 4


def draw(path: Path, count: int, shown: Iterable[tuple[str, NDArray[Any]]], model: Predictor) -> None:
    """Write a PNG.

    Args:
        path: of the picture.
        count: how many are ``shown``, at least 1.
        shown: title and image (H, W, 3), uint8 or uint16, of each; read one at a time.
        model: predicts the outlines.
    """
    import matplotlib
    from matplotlib.figure import Figure

    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    with matplotlib.rc_context({"font.size": 9}):
        figure = Figure(figsize=(4 * columns, 4.3 * rows), dpi=100, layout="constrained")
        for number, (title, pixels) in enumerate(shown, start=1):
            axes = figure.add_subplot(rows, columns, number)
            axes.set_axis_off()
            axes.set_title(title.encode("utf-8", "backslashreplace").decode(), parse_math=False)  # a file's name may be no text
            axes.imshow(to_unit(pixels))
            prediction = Prediction(model.probability(np.ascontiguousarray(pixels)))
            if min(pixels.shape[:2]) > 1 and prediction.mask.any() and not prediction.mask.all():
                for colour, width in (("black", 2.2), ("#ffe34d", 1.1)):  # cased, to be seen on stained tissue and on black alike
                    axes.contour(prediction.probability, [prediction.threshold], colors=colour, linewidths=width)
        with atomic(path) as temporary:
            figure.savefig(temporary, format="png")
