"""Read a trained model from a file, without running code that may be in it."""

import hashlib
import math
from collections.abc import Mapping
from functools import lru_cache
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import torch

from celladapt import checkpoint
from celladapt.data.normalise import Normalisation
from celladapt.errors import InputError
from celladapt.hardware import check_precision, pick_device
from celladapt.model import Model, Predictor
from celladapt.networks import Segmenter
from celladapt.onnx_model import OnnxModel
from celladapt.onnx_network import open_onnx
from celladapt.progress import say
from celladapt.records import read_json
from celladapt.shell import as_typed


def load_model(path: str | Path, device: str = "auto", precision: str = "auto") -> Predictor:
    """Load a model from a run folder, a ``.safetensors`` file, or a ``.onnx`` file of ``celladapt export``.

    Raises:
        InputError: there is none at ``path``, it is damaged, or ``device`` or ``precision`` is not for it.
    """
    check_precision(precision)
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
            raise InputError(
                f"{path} has no model yet: its training was stopped early; go on with `{as_typed('celladapt', 'adapt', '--resume', path)}`."
            )
        if (path / "config.toml").is_file() and not _finished(path) and parent_process() is None:  # whose workers need not say it again
            say(f"{path} is not finished: this is its best model so far; `{as_typed('celladapt', 'adapt', '--resume', path)}` goes on.")
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
    with torch.random.fork_rng(devices=[]):  # the weights it begins with are of no use, and the caller's random numbers not ours
        network = Segmenter(width)
    checkpoint.fill(network, tensors, path)
    if not all(values.isfinite().all() for values in network.state_dict().values()):
        raise InputError(f"{path} has weights that are not finite (NaN or infinity), so its training failed; give another model.")
    network = network.to(pick_device(device), memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    return Model(network, normalisation, about, precision)


def _finished(run: Path) -> bool:
    """Whether a run says that it has come to its end; True where that cannot be told."""
    try:
        return bool(read_json(run / "run.json").get("finished", True))
    except InputError:
        return True


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


def _kinds(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[torch.Size, bool]]:
    return {name: (values.shape, values.is_floating_point()) for name, values in tensors.items()}


def _expected_kinds(width: int) -> dict[str, tuple[torch.Size, bool]]:
    """Of a network of that width; nothing is reserved for it, as a damaged header can ask for more than there is."""
    try:
        with torch.device("meta"):
            return _kinds(Segmenter(width).state_dict())
    except (RuntimeError, OverflowError, TypeError):  # more than can be counted
        return {}
