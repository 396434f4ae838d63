"""What this machine can do: device, arithmetic, and a description for the record."""

import os
import platform
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from celladapt.errors import InputError


def pick_device(name: str) -> torch.device:
    """ "auto", "cpu" or "cuda" -> the device of this process.

    Raises:
        InputError: "cuda" where torch sees no GPU.
    """
    gpu = torch.cuda.is_available()
    if name == "cuda" and not gpu:
        raise InputError("--device cuda: this torch sees no GPU; install a CUDA build of torch, or use --device cpu.")
    if name == "cpu" or not gpu:
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def has_bf16(device: torch.device) -> bool:
    """Whether convolutions in bf16 are faster than float32 on ``device``."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether ``precision`` means bf16 on ``device``: "bf16", or "auto" with the hardware for it."""
    return precision == "bf16" or (precision == "auto" and has_bf16(device))


def arithmetic(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """The context for forward passes: bf16 autocast, or none for "float32" (and for "auto" without bf16 hardware)."""
    if uses_bf16(precision, device):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def describe(device: torch.device) -> dict[str, Any]:
    """Versions and hardware, for ``run.json``."""
    from celladapt import __version__

    return {
        "celladapt": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({platform.processor() or platform.machine()})",
        "bf16": has_bf16(device),
        "threads": torch.get_num_threads(),
        "command": " ".join(sys.argv),
    }
