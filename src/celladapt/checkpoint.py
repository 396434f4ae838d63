"""Weights and training state in one safetensors file each, with a JSON header and a checksum; nothing is ever unpickled."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from celladapt.errors import InputError
from celladapt.files import atomic

HEADER = "celladapt"
CHECKSUM = "sha256"


class Damaged(InputError):
    """A file's bytes are not those that were written."""


def save(path: Path, tensors: Mapping[str, Tensor], about: dict[str, Any], previous: Path | None = None) -> None:
    """Write ``tensors`` and ``about`` (JSON) to ``path``, atomically, with a SHA-256 over both.

    Args:
        path: file to write.
        tensors: any dtypes and shapes, on any device.
        about: what JSON can hold.
        previous: name that an existing ``path`` gets instead of being replaced, see ``files.atomic``.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(about)
    with atomic(path, previous) as temporary:
        try:
            save_file(plain, temporary, metadata={HEADER: text, CHECKSUM: _checksum(plain, text)})
        except SafetensorError as error:  # which a full disk raises too, with the system's number in its words
            if number := re.search(r"os error (\d+)", str(error)):
                raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
            raise


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what ``save`` wrote, onto the CPU, into memory of its own: a file that is mapped could not be replaced on Windows, nor its space be freed elsewhere.

    Raises:
        InputError: missing, or it cannot be read.
        Damaged: not a file of this package, or its checksum does not fit; files of the first versions have none.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; give a run folder of `celladapt adapt` or a .safetensors model of it.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            text = metadata.pop(HEADER)
            tensors, about = {name: file.get_tensor(name).clone() for name in file.keys()}, json.loads(text)  # noqa: SIM118 (not a dict)
            if not isinstance(about, dict):
                raise ValueError("its header is no object")
    except OSError as error:  # of the disk or of permissions, and not of what was written
        raise InputError(f"{path} cannot be read ({error.strerror or error}); check its permissions and the disk.") from None
    except (SafetensorError, KeyError, ValueError, RecursionError) as error:
        if path.suffix.lower() != ".safetensors":
            raise Damaged(
                f"{path} is no model of celladapt; give a run folder of `celladapt adapt`, its model.safetensors or an .onnx file of `celladapt export`."
            ) from None
        raise Damaged(f"{path} is damaged or not a celladapt file ({error}); use another copy of it.") from None
    metadata.pop("format", None)  # other programs add it
    if metadata and metadata != {CHECKSUM: _checksum(tensors, text)}:
        raise Damaged(f"{path} is damaged (its checksum does not fit its contents); use another copy of it.")
    return tensors, about


def _checksum(tensors: Mapping[str, Tensor], about: str) -> str:
    """SHA-256 (hex) of everything in a file that has a meaning."""
    total = hashlib.sha256(about.encode())
    for name, tensor in sorted(tensors.items()):
        total.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        total.update(tensor.flatten().view(torch.uint8).numpy().data)  # numpy has no bfloat16
    return total.hexdigest()


def fill(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Put ``tensors`` into ``network``.

    Raises:
        InputError: names or shapes differ; ``path`` is named.
    """
    try:
        network.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise InputError(f"{path} does not fit this network ({str(error).splitlines()[-1].strip()}); use the model's own width and method.") from None


def save_training(path: Path, networks: nn.ModuleDict, optimizers: Mapping[str, torch.optim.Optimizer], about: dict[str, Any]) -> None:
    """Everything that training needs to go on: networks, optimisers, random states, and ``about`` (step, selection, seconds).

    The one before it stays, see ``previous``.
    """
    tensors = {f"network.{key}": value for key, value in networks.state_dict().items()}
    for name, optimizer in optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{name}.{index}.{key}": value for key, value in state.items()}
    tensors["random.cpu"] = torch.get_rng_state()
    if _on_gpu(networks):  # a run on the CPU leaves the GPU alone
        tensors["random.cuda"] = torch.cuda.get_rng_state()  # pragma: no cover (a GPU)
    save(path, tensors, about, previous(path))


def previous(path: Path) -> Path:
    """Where the training state before the one at ``path`` is."""
    return path.with_stem("previous")


def load_training(path: Path, networks: nn.ModuleDict, optimizers: Mapping[str, torch.optim.Optimizer]) -> dict[str, Any]:
    """Restore what ``save_training`` wrote, in place, and return its ``about``.

    Raises:
        Damaged: nothing is restored.
        InputError: it is missing, or of another method or width.
    """
    tensors, about = load(path)
    try:
        states = {name: _state(optimizer, _below(tensors, f"optimizer.{name}.")) for name, optimizer in optimizers.items()}
        torch.Generator().set_state(tensors["random.cpu"])  # or it raises
    except (KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise Damaged(f"{path} is damaged or no training state of this method ({error}); use another copy of it.") from None
    fill(networks, _below(tensors, "network."), path)
    for name, optimizer in optimizers.items():
        optimizer.load_state_dict({"state": states[name], "param_groups": optimizer.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["random.cpu"])
    if _on_gpu(networks) and "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"])  # pragma: no cover (a GPU)
    return about


def _on_gpu(networks: nn.ModuleDict) -> bool:
    return any(parameter.is_cuda for parameter in networks.parameters())


def _state(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """What an optimiser knows of each parameter, by the parameter's number."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, what = key.split(".")
        state.setdefault(int(index), {})[what] = _laid_out_as(parameters[int(index)], value)
    return state


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """``value`` in the memory layout of ``parameter``, which a fused optimiser walks through both; the file knows only one layout."""
    return torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
