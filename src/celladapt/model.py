"""A trained segmenter, run by torch, and what it sees in one image that fits into memory. ``loading`` reads one from a file; ``onnx_model`` is its like, run by ONNX Runtime."""

import hashlib
import math
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from celladapt import checkpoint
from celladapt.data.images import image_of, read_image
from celladapt.data.limits import MAX_CHANNELS
from celladapt.data.normalise import Normalisation
from celladapt.data.slide import is_slide
from celladapt.errors import InputError
from celladapt.hardware import kept_memory, uses_bf16
from celladapt.instances import to_instances, to_mask
from celladapt.networks import Segmenter, folded
from celladapt.strips import GRID, SMALLEST, InStrips, reflected, spans

STRIP = {"cpu": 12 * 2**20, "cuda": 2**26}
"""Numbers in the first block's output for one strip of rows: by measurement on a CPU, whose cache holds about as many; a GPU wants large pieces."""


@dataclass(frozen=True)
class Prediction:
    """What a model sees in one image."""

    probability: NDArray[np.float32]
    """[H, W] in [0, 1]: probability of nucleus."""
    threshold: float = 0.5
    min_size: int = 20
    """Smallest nucleus in px²."""

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """[H, W]: probability >= threshold."""
        return to_mask(self.probability, self.threshold)

    @cached_property
    def instances(self) -> NDArray[np.int32]:
        """[H, W]: 0 background, nuclei numbered from 1."""
        return to_instances(self.probability, self.threshold, self.min_size)


class Predictor(Protocol):
    """What predicts, whatever computes it."""

    @property
    def network(self) -> nn.Module:
        """[B, 3, H, W], normalised -> probability of nucleus [B, 1, H, W]."""

    @property
    def normalisation(self) -> Normalisation:
        """What an image goes through first."""

    @property
    def about(self) -> dict[str, Any]:
        """Where it comes from: method, domains, step, how it was selected."""

    @property
    def pixel_size(self) -> float | None:
        """µm per pixel of the images it was trained for; None where nobody said."""

    @property
    def fingerprint(self) -> str:
        """Of what decides its predictions."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    @property
    def precision(self) -> str:
        """auto, float32 or bf16."""

    def predict(self, image: ArrayLike | str | Path) -> Prediction:
        """Segment one image; see ``Model.predict``."""

    def probability(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """[H, W] in [0, 1], of an image [H, W, 3] uint8 or uint16 as ``data.images.read_image`` gives it."""


@dataclass(frozen=True)
class Model:
    """A trained segmenter with all that prediction needs."""

    network: Segmenter
    normalisation: Normalisation
    about: dict[str, Any] = field(default_factory=dict)
    """Where it comes from: method, domains, step, how it was selected."""
    precision: str = "auto"
    _made: dict[tuple[object, ...], Segmenter] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.network.parameters()).device

    @property
    def pixel_size(self) -> float | None:
        """µm per pixel of the images it was trained for; None where nobody said."""
        return stated_pixel_size(self.about)

    @cached_property
    def fingerprint(self) -> str:
        """Of what decides its predictions: weights, normalisation, precision, pixel size."""
        known = hashlib.blake2b(repr((self.normalisation, self._dtype, self.pixel_size)).encode(), digest_size=16)
        for name, tensor in self.network.state_dict().items():
            known.update(name.encode())
            known.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return known.hexdigest()

    def predict(self, image: ArrayLike | str | Path) -> Prediction:
        """Segment one image, at the size of pixel that it has.

        Args:
            image: an image file; or what is in one, [H, W] or [H, W, C] with up to 4 channels, the last of 4 alpha. The same pixels give the same prediction either way: 8 bits are taken as they
                are, other numbers are stretched as ``data.images.read_image`` says.

        Raises:
            InputError: it is no such image, or a slide, which ``celladapt.predict`` segments in parts.
        """
        return Prediction(self.probability(as_image(image)))

    def probability(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """[H, W] in [0, 1]: probability of nucleus in an image [H, W, 3] uint8 or uint16, whose full range is black to white, as ``data.images.read_image`` gives it."""
        h, w = image.shape[:2]
        rows, columns = reflected(h, w)
        strips = spans(len(rows), self._rows_at_a_time(len(columns)))
        probability, done = np.empty((h, w), np.float32), 0
        with torch.inference_mode(), kept_memory() if self.device.type == "cpu" else nullcontext():
            inputs = (self._input(image[rows[strip]].take(columns, axis=1) if len(columns) > w else image[rows[strip]]) for strip in strips)
            for piece in InStrips(self._fast())(inputs, len(strips)):
                part = probability[done : done + len(piece)]
                part[:] = piece[: len(part), :w].cpu().numpy()
                done += len(piece)
        return probability

    def _input(self, image: NDArray[Any]) -> torch.Tensor:
        return self.normalisation(image)[None].to(self.device, self._dtype, memory_format=torch.channels_last)

    def _rows_at_a_time(self, w: int) -> int:
        width = int(self.network.head.in_channels)
        return max(SMALLEST, STRIP[self.device.type] // (w * width) // GRID * GRID)

    @property
    def _dtype(self) -> torch.dtype:
        return torch.bfloat16 if uses_bf16(self.precision, self.device) else torch.float32

    def _fast(self) -> Segmenter:
        """The network as it computes fastest: batch normalisation folded away, weights in the type of the arithmetic rather than cast at each use.

        Made anew when the weights have changed or moved.
        """
        state = self.network.state_dict().values()
        key = (self.device, self._dtype, *((values.data_ptr(), 0 if values.is_inference() else values._version) for values in state))
        if key not in self._made:
            self._made.clear()
            self._made[key] = folded(self.network).to(dtype=self._dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self._made[key]

    @property
    def header(self) -> dict[str, Any]:
        """What a file of the model says beside the weights: ``about``, the width and the normalisation."""
        return {**self.about, "width": self.network.head.in_channels, "normalisation": asdict(self.normalisation)}

    def save(self, path: Path) -> None:
        """Write the model to one ``.safetensors`` file, atomically."""
        checkpoint.save(path, self.network.state_dict(), self.header)


def as_image(image: ArrayLike | str | Path) -> NDArray[Any]:
    """[H, W, 3] uint8 or uint16; raises InputError as ``Model.predict`` says."""
    if isinstance(image, (str, Path)):
        if is_slide(Path(image)):
            raise InputError(f"{image} is a slide, which is segmented in parts; use celladapt.predict.")
        return read_image(Path(image))
    try:
        array = np.asarray(image)
    except ValueError as error:
        raise InputError(f"The image is no array ({error}).") from None
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] > MAX_CHANNELS):
        raise InputError(f"The image has the shape {array.shape}; give (H, W), or (H, W, C) with at most {MAX_CHANNELS} channels, which come last.")
    return image_of(array, "The image")


def stated_pixel_size(about: dict[str, Any]) -> float | None:
    """µm per pixel of a model's training images, by its header; None where nobody said."""
    size = about.get("pixel_size")
    return float(size) if isinstance(size, (int, float)) and 0 < size < math.inf else None
