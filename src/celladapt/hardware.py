"""What this machine can do: device, arithmetic, and a description for the record."""

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch

from celladapt.errors import InputError

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_FOR_THE_NEXT = 2**28
"""Bytes of free memory that may stay with the process, at the top of its heap, after a piece of work: fresh pages for the next image would take some hundredths of its time."""


def pick_device(name: str) -> torch.device:
    """ "auto", "cpu" or "cuda" -> the device of this process.

    Raises:
        InputError: "cuda" where torch sees no GPU, or a launcher started more processes than there are GPUs.
    """
    gpu = torch.cuda.is_available()
    if name == "cuda" and not gpu:
        raise InputError("--device cuda: this torch sees no GPU; install a CUDA build of torch, or use --device cpu.")
    if name == "cpu" or not gpu:
        return torch.device("cpu")
    place, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if place >= gpus:
        raise InputError(
            f"A launcher started {place + 1} processes or more here, and torch sees {gpus} GPU(s); start one for each, or use --device cpu."
        )
    return torch.device("cuda", place)


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


@contextmanager
def kept_memory() -> Iterator[None]:
    """Within it, memory that one layer frees is there for the next; afterwards what is free goes back to the system, but for up to 256 MiB.

    glibc returns each large block to the system as soon as it is freed, and the next layer waits for fresh pages. This acts on the main thread's
    memory alone, fully from glibc 2.35 on; other C libraries are left as they are, and so is glibc where the user has set MALLOC_* himself.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    own = any(name.startswith("MALLOC_") for name in os.environ)
    if own or not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        yield
        return
    assert libc is not None
    for option in (_MMAP_THRESHOLD, _TRIM_THRESHOLD):
        libc.mallopt(option, 2**31 - 1)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_THRESHOLD, 2**25)  # what glibc's own threshold grows to
        libc.mallopt(_TRIM_THRESHOLD, _FOR_THE_NEXT)
        libc.malloc_trim(_FOR_THE_NEXT)


def check_compiler(device: torch.device) -> None:
    """Compile one addition for ``device``, which shows whatever torch.compile lacks there: compiler, headers, Triton, a GPU that is new enough.

    Raises:
        InputError: it does not work, with torch's reason and the cure.
    """
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(2, device=device))
    except Exception as error:  # of several private types
        reason = str(error).partition("\n")[0].partition(". ")[0].rstrip(".") or type(error).__name__
        cure = "install a C++ compiler and Python's headers (for a GPU Triton too), or leave --compile out"
        raise InputError(f"--compile does not work on this machine ({reason}); {cure}.") from None


@contextmanager
def tried_convolutions(device: torch.device) -> Iterator[None]:
    """Within it cuDNN tries its algorithms at each new size and keeps the fastest, which pays where sizes repeat; nothing on a CPU."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or device.type == "cuda"
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


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
        "numba": version("numba") if find_spec("numba") else None,
        "command": " ".join(sys.argv),
    }
