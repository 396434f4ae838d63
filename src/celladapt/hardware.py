"""What this machine can do: device, arithmetic, and a description for the record."""

import ctypes
import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch

from celladapt.errors import InputError
from celladapt.progress import say

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_FOR_THE_NEXT = 2**28
"""Bytes of free memory that may stay with the process, at the top of its heap, after a piece of work: fresh pages for the next image would take some hundredths of its time."""


def pick_device(name: str) -> torch.device:
    """ "auto", "cpu" or "cuda" -> the device of this process. "auto" is the CPU, and says so, where no GPU that torch sees is one that it has code for.

    Raises:
        InputError: another name, "cuda" where torch has no GPU to use, or a launcher started more processes than there are GPUs.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"The device is '{name}'; choose auto, cpu or cuda. To choose a GPU set CUDA_VISIBLE_DEVICES.")
    gpus = usable_gpus() if name != "cpu" else []
    if name == "cuda" and not gpus:
        raise InputError(
            f'--device cuda: {_without_gpu()}, or use --device cpu; in a run begun elsewhere write device = "cpu" into its config.toml, and into that in its folder baseline.'
        )
    if not gpus:
        if name == "auto":
            _say_why_not()
        return torch.device("cpu")
    place = int(os.environ.get("LOCAL_RANK", "0"))
    if place >= len(gpus):
        raise InputError(
            f"A launcher started {place + 1} processes or more here, and torch has {len(gpus)} GPU(s) to use; start one for each, or use --device cpu."
        )
    return torch.device("cuda", gpus[place])


def usable_gpus() -> list[int]:
    """Numbers of the GPUs that torch sees and has code for. No memory is taken there for asking."""
    return [gpu for gpu in range(torch.cuda.device_count()) if _has_code_for(gpu)] if torch.cuda.is_available() else []


def _has_code_for(gpu: int) -> bool:
    """Whether this build of torch can compute on a GPU: it has binaries of its generation and no newer, or what its driver can translate."""
    if torch.version.hip is not None:
        return True
    here = torch.cuda.get_device_capability(gpu)
    for name in torch.cuda.get_arch_list():
        code = re.fullmatch(r"(sm|compute)_(\d+)(\d)(a?)f?", name)
        if code is None:
            continue
        of = int(code[2]), int(code[3])
        if of == here or (of < here and not code[4] and (code[1] == "compute" or of[0] == here[0])):
            return True
    return False


def _without_gpu() -> str:
    """Why torch has no GPU to use, and the cure."""
    if not torch.cuda.is_available():
        return "this torch sees no GPU; install a CUDA build of torch"
    return f"this torch ({torch.__version__}) has no code for {torch.cuda.get_device_name(0)}; install a build that has"


@cache
def _say_why_not() -> None:
    """Once a process: that a GPU which is there is not used."""
    if torch.cuda.is_available():
        say(f"WARNING: computing on the CPU, as {_without_gpu()}.")


def has_bf16(device: torch.device) -> bool:
    """Whether convolutions in bf16 are faster than float32 on ``device``."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def check_precision(name: str) -> None:
    """Raise InputError where ``name`` is no word of ``--precision``."""
    if name not in ("auto", "float32", "bf16"):
        raise InputError(f"The precision is '{name}'; choose auto, float32 or bf16.")


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
