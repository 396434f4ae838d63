"""A trained segmenter, run by torch or by ONNX Runtime, and what it sees in one image that fits into memory."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from celladapt import checkpoint
from celladapt.data.images import read_image
from celladapt.data.normalise import Normalisation
from celladapt.errors import InputError
from celladapt.hardware import kept_memory, pick_device, uses_bf16
from celladapt.instances import to_instances, to_mask
from celladapt.networks import Segmenter, folded
from celladapt.onnx_network import OnnxNetwork, open_onnx
from celladapt.strips import GRID, HALO, SMALLEST, InStrips, spans

STRIP = {"cpu": 12 * 2**20, "cuda": 2**26}
"""Numbers in the first block's output for one strip of rows: by measurement on a CPU, whose cache holds about as many; a GPU wants large pieces."""
WINDOW_BYTES = 2**27
"""Of the first block's output for one window, where strips are not at hand; at its peak ONNX Runtime holds eight times as much."""


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

    def predict(self, image: NDArray[Any] | str | Path) -> Prediction:
        """Segment one image; see ``Model.predict``."""


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
        return _pixel_size(self.about)

    @cached_property
    def fingerprint(self) -> str:
        """Of what decides its predictions: weights, normalisation, precision, pixel size."""
        known = hashlib.blake2b(repr((self.normalisation, self._dtype, self.pixel_size)).encode(), digest_size=16)
        for name, tensor in self.network.state_dict().items():
            known.update(name.encode())
            known.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return known.hexdigest()

    def predict(self, image: NDArray[Any] | str | Path) -> Prediction:
        """Segment one image.

        Args:
            image: an image file; or [H, W, 3] or [H, W], uint8, or uint16 whose full range is black to white (files of 16 bits are stretched).

        Raises:
            InputError: the array is not such an image.
        """
        image = _as_image(image)
        h, w = image.shape[:2]
        rows, columns = _reflected(h, w)
        strips = spans(len(rows), self._rows_at_a_time(len(columns)))
        probability, done = np.empty((h, w), np.float32), 0
        with torch.inference_mode(), kept_memory() if self.device.type == "cpu" else nullcontext():
            inputs = (self._input(image[rows[strip]].take(columns, axis=1) if len(columns) > w else image[rows[strip]]) for strip in strips)
            for piece in InStrips(self._fast())(inputs, len(strips)):
                part = probability[done : done + len(piece)]
                part[:] = piece[: len(part), :w].cpu().numpy()
                done += len(piece)
        return Prediction(probability)

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
        return _pixel_size(self.about)

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    @property
    def precision(self) -> str:
        """float32."""
        return "float32"

    def predict(self, image: NDArray[Any] | str | Path) -> Prediction:
        """Segment one image, as ``Model.predict`` does: in windows that see as far beyond their part as the network looks, so there are no seams."""
        image = _as_image(image)
        h, w = image.shape[:2]
        rows, columns = _reflected(h, w)
        probability = np.empty((h, w), np.float32)
        with kept_memory():
            for down, seen_down in _windows(len(rows), self._side):
                for across, seen_across in _windows(len(columns), self._side):
                    x = self.normalisation(image[np.ix_(rows[seen_down], columns[seen_across])])[None]
                    part = probability[down, across]  # less than the window, where the image had to grow
                    top, left = down.start - seen_down.start, across.start - seen_across.start
                    part[:] = self.network(x)[0, 0].numpy()[top : top + part.shape[0], left : left + part.shape[1]]
        return Prediction(probability)

    @property
    def _side(self) -> int:
        seen = math.isqrt(WINDOW_BYTES // (np.dtype(np.float32).itemsize * int(self.about["width"])))
        return max(SMALLEST, (seen - 2 * HALO) // GRID * GRID)


def load_model(path: str | Path, device: str = "auto", precision: str = "auto") -> Predictor:
    """Load a model from a run folder, a ``.safetensors`` file, or a ``.onnx`` file of ``celladapt export``.

    Raises:
        InputError: there is none at ``path``, it is damaged, or ``device`` or ``precision`` is not for it.
    """
    if Path(path).suffix.lower() != ".onnx":
        return load_weights(path, device, precision)
    if device == "cuda" or precision == "bf16":
        option = "--device cuda" if device == "cuda" else "--precision bf16"
        raise InputError(f"{path} is run on the CPU in float32; leave {option} out, or give the model.safetensors that it was made from.")
    network, about = open_onnx(Path(path))
    width, normalisation = _from_header(about, Path(path))
    with open(path, "rb") as file:
        return OnnxModel(network, normalisation, {**about, "width": width}, hashlib.file_digest(file, "sha256").hexdigest())


def loaded_model(path: Path, device: str = "auto", precision: str = "auto") -> Predictor:
    """The model at ``path``, loaded anew only when it is another one or its file has changed.

    Raises:
        InputError: as ``load_model``.
    """
    path = path.expanduser().absolute()
    file = path / "model.safetensors" if path.is_dir() else path
    return _load(path, file.stat().st_mtime_ns if file.exists() else 0, device, precision)


@lru_cache(maxsize=1)
def _load(path: Path, changed: int, device: str, precision: str) -> Predictor:
    return load_model(path, device, precision)


def load_weights(path: str | Path, device: str = "auto", precision: str = "auto") -> Model:
    """Load a model of torch, from a run folder or a ``.safetensors`` file.

    Raises:
        InputError: there is none at ``path``, or it is damaged.
    """
    path = Path(path)
    if path.suffix.lower() == ".onnx":
        raise InputError(f"{path} only predicts; for this give the run folder or model.safetensors that it was made from.")
    if path.is_dir():
        if (path / "config.toml").is_file() and not (path / "model.safetensors").is_file():
            raise InputError(f"{path} has no model yet: its training was stopped early; go on with `celladapt adapt --resume {path}`.")
        path = path / "model.safetensors"
    if _is_pickle(path):
        raise InputError(
            f"{path} is a pickle, which can run code and so is not opened here; `celladapt import {path} --out model.safetensors "
            "--mean R,G,B --std R,G,B` makes a model of its weights, with the mean and standard deviation of its training images."
        )
    tensors, about = checkpoint.load(path)
    width, normalisation = _from_header(about, path)
    if _kinds(tensors) != _expected_kinds(width):
        raise InputError(f"{path} is damaged (its weights are not those of a network of width {width}); use another copy of it.")
    network = Segmenter(width)
    checkpoint.fill(network, tensors, path)
    if not all(values.isfinite().all() for values in network.state_dict().values()):
        raise InputError(f"{path} has weights that are not finite (NaN or infinity), so its training failed; give another model.")
    network = network.to(pick_device(device), memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    return Model(network, normalisation, about, precision)


def _is_pickle(path: Path) -> bool:
    """Whether a file is one of torch.save or a plain pickle, by its beginning, or where that says nothing by its name."""
    if not path.is_file():
        return False
    try:
        with open(path, "rb") as file:
            head = file.read(9)
    except OSError as error:
        raise InputError(f"{path} cannot be opened ({error.strerror}); check its permissions.") from error
    if head[8:] == b"{":  # the header of a .safetensors file, after its length
        return False
    begins = head.startswith((b"PK", b"\x80"))
    return path.suffix.lower() in (".pt", ".pth", ".ckpt", ".pkl", ".pickle") or (begins and path.suffix.lower() != ".zip")


def _from_header(about: Any, path: Path) -> tuple[int, Normalisation]:
    """Width and normalisation; raises InputError where ``about`` lacks them."""
    try:
        width, normalised = int(about["width"]), about["normalisation"]
        mean, std = (tuple(float(value) for value in normalised[name]) for name in ("mean", "std"))
        if width < 1 or len(mean) != 3 or len(std) != 3 or not all(map(math.isfinite, mean + std)) or min(std) <= 0:
            raise ValueError
        return width, Normalisation(mean, std, bool(normalised.get("grey", False)))
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        raise InputError(
            f"{path} is not a model (its header lacks the width or the normalisation); give a run folder or its model.safetensors."
        ) from None


def _as_image(image: NDArray[Any] | str | Path) -> NDArray[Any]:
    """[H, W, 3] uint8 or uint16; raises InputError as ``Model.predict`` says."""
    if isinstance(image, (str, Path)):
        image = read_image(Path(image))
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0 or image.dtype not in (np.uint8, np.uint16):
        raise InputError(f"The image is {image.dtype} of shape {image.shape}; give uint8 or uint16 of shape (H, W) or (H, W, 3).")
    return image


def _pixel_size(about: dict[str, Any]) -> float | None:
    size = about.get("pixel_size")
    return float(size) if isinstance(size, (int, float)) and 0 < size < math.inf else None


def _kinds(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[torch.Size, bool]]:
    return {name: (values.shape, values.is_floating_point()) for name, values in tensors.items()}


def _expected_kinds(width: int) -> dict[str, tuple[torch.Size, bool]]:
    """Of a network of that width; nothing is reserved for it, as a damaged header can ask for more than there is."""
    try:
        with torch.device("meta"):
            return _kinds(Segmenter(width).state_dict())
    except (RuntimeError, OverflowError, TypeError):  # more than can be counted
        return {}


def _windows(length: int, side: int) -> Iterator[tuple[slice, slice]]:
    """Parts of ``length`` (a multiple of 16), ``side`` (as well) each but the last, and what is seen to tell each."""
    for start in range(0, length, side):
        stop = min(start + side, length)
        yield slice(start, stop), slice(max(0, start - HALO), min(length, stop + HALO))


def _reflected(h: int, w: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of an image as ``networks.pad_to_multiple`` would grow it."""
    down, right = -h % GRID, -w % GRID
    mode: Literal["reflect", "edge"] = "reflect" if down < h and right < w else "edge"
    return np.pad(np.arange(h), (0, down), mode), np.pad(np.arange(w), (0, right), mode)
