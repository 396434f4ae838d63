"""A model that ONNX Runtime computes, as ``celladapt export`` wrote it, and what it sees in one image that fits into memory."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from celladapt.data.normalise import Normalisation
from celladapt.hardware import kept_memory
from celladapt.model import Prediction, as_image, stated_pixel_size
from celladapt.onnx_network import OnnxNetwork
from celladapt.strips import GRID, HALO, SMALLEST, reflected

WINDOW_BYTES = 2**27
"""Of the first block's output for one window, where strips are not at hand; at its peak ONNX Runtime holds eight times as much."""


@dataclass(frozen=True)
class OnnxModel:
    """A model that ``celladapt export`` wrote as ONNX, on the CPU in float32."""

    network: OnnxNetwork
    normalisation: Normalisation
    about: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    """Of its file."""

    @property
    def pixel_size(self) -> float | None:
        """µm per pixel of the images it was trained for; None where nobody said."""
        return stated_pixel_size(self.about)

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    @property
    def precision(self) -> str:
        """float32."""
        return "float32"

    def predict(self, image: ArrayLike | str | Path) -> Prediction:
        """Segment one image, as ``Model.predict`` does."""
        return Prediction(self.probability(as_image(image)))

    def probability(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """As ``Model.probability``: in windows that see as far beyond their part as the network looks, so there are no seams."""
        h, w = image.shape[:2]
        rows, columns = reflected(h, w)
        probability = np.empty((h, w), np.float32)
        with kept_memory():
            for down, seen_down in _windows(len(rows), self._side):
                for across, seen_across in _windows(len(columns), self._side):
                    x = self.normalisation(image[np.ix_(rows[seen_down], columns[seen_across])])[None]
                    part = probability[down, across]  # less than the window, where the image had to grow
                    top, left = down.start - seen_down.start, across.start - seen_across.start
                    part[:] = self.network(x)[0, 0].numpy()[top : top + part.shape[0], left : left + part.shape[1]]
        return probability

    @property
    def _side(self) -> int:
        seen = math.isqrt(WINDOW_BYTES // (np.dtype(np.float32).itemsize * int(self.about["width"])))
        return max(SMALLEST, (seen - 2 * HALO) // GRID * GRID)


def _windows(length: int, side: int) -> Iterator[tuple[slice, slice]]:
    """Parts of ``length`` (a multiple of 16), ``side`` (as well) each but the last, and what is seen to tell each."""
    for start in range(0, length, side):
        stop = min(start + side, length)
        yield slice(start, stop), slice(max(0, start - HALO), min(length, stop + HALO))
