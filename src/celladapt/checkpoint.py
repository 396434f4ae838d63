"""Weights and training state in one safetensors file each, with a JSON header; nothing is ever unpickled."""

import json
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


def save(path: Path, tensors: Mapping[str, Tensor], about: dict[str, Any]) -> None:
    """Write ``tensors`` and ``about`` (JSON) to ``path``, atomically."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic(path) as temporary:
        save_file(plain, temporary, metadata={HEADER: json.dumps(about)})


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what ``save`` wrote, onto the CPU.

    Raises:
        InputError: missing, damaged, or not a file of this package.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; give a run folder of `celladapt adapt` or a .safetensors model of it.")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[HEADER])
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is damaged or not a celladapt file ({error}); use another copy of it.") from None


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
    """Everything that training needs to go on: networks, optimisers, random states, and ``about`` (step, selection, seconds)."""
    tensors = {f"network.{key}": value for key, value in networks.state_dict().items()}
    for name, optimizer in optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{name}.{index}.{key}": value for key, value in state.items()}
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()  # pragma: no cover (a GPU)
    save(path, tensors, about)


def load_training(path: Path, networks: nn.ModuleDict, optimizers: Mapping[str, torch.optim.Optimizer]) -> dict[str, Any]:
    """Restore what ``save_training`` wrote, in place, and return its ``about``.

    Raises:
        InputError: the file is damaged or of another method or width.
    """
    tensors, about = load(path)
    fill(networks, _below(tensors, "network."), path)
    for name, optimizer in optimizers.items():
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in _below(tensors, f"optimizer.{name}.").items():
            index, what = key.split(".")
            state.setdefault(int(index), {})[what] = _laid_out_as(parameters[int(index)], value)
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["random.cpu"])
    if torch.cuda.is_available() and "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"])  # pragma: no cover (a GPU)
    return about


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """``value`` in the memory layout of ``parameter``, which a fused optimiser walks through both; the file knows only one layout."""
    return torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
