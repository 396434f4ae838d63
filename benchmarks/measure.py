"""Paired timing: the two sides take turns, so that a busy neighbour slows both, and their ratio stays."""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from celladapt import __version__
from celladapt.files import write_json


@dataclass(frozen=True)
class Paired:
    """Seconds of two sides measured in turns; ``ratio`` is how many times faster ``fast`` is."""

    slow: list[float]
    fast: list[float]

    @property
    def ratios(self) -> list[float]:
        """Of each turn, ascending."""
        return sorted(a / b for a, b in zip(self.slow, self.fast, strict=True))

    def record(self) -> dict[str, Any]:
        """Median and quartiles of the ratio, and the median seconds of both sides."""
        low, median, high = statistics.quantiles(self.ratios, n=4, method="inclusive")
        return {
            "ratio": round(median, 3),
            "quartiles": [round(low, 3), round(high, 3)],
            "range": [round(self.ratios[0], 3), round(self.ratios[-1], 3)],
            "turns": len(self.slow),
            "slow_seconds": statistics.median(self.slow),
            "fast_seconds": statistics.median(self.fast),
        }


def paired(slow: Callable[[], object], fast: Callable[[], object], turns: int = 7, warm: int = 1, device: torch.device | None = None) -> Paired:
    """Time both sides ``turns`` times in turns, after ``warm`` turns that do not count; which of the two goes first alternates.

    Args:
        slow, fast: the two sides.
        turns: at least 2.
        warm: turns before, for caches and compilation.
        device: is waited for before the clock is read, where it is a GPU.
    """
    sides = {"slow": slow, "fast": fast}
    seconds: dict[str, list[float]] = {"slow": [], "fast": []}
    for turn in range(warm + turns):
        for name in ("slow", "fast") if turn % 2 else ("fast", "slow"):
            taken = clock(sides[name], device)
            if turn >= warm:
                seconds[name].append(taken)
    return Paired(**seconds)


def clock(work: Callable[[], object], device: torch.device | None = None) -> float:
    """Seconds that ``work`` takes, to the end of what it set going on ``device``."""
    wait(device)
    began = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - began


def wait(device: torch.device | None) -> None:
    """Until a GPU has done what it was told."""
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


def product_peak(dtype: torch.dtype, device: torch.device) -> float:
    """GFLOP/s of a square matrix product, the best of ten: what this machine can do at most."""
    side = 8192 if device.type == "cuda" else 2048  # a small product leaves a GPU half idle
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    clock(lambda: a @ b, device)
    return 2 * side**3 / min(clock(lambda: a @ b, device) for _ in range(10)) / 1e9


def plain_layers(network: nn.Module) -> nn.Module:
    """``network`` itself, its convolutions now torch's own: what one would have without this package."""
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            layer.__class__ = nn.ConvTranspose2d if isinstance(layer, nn.ConvTranspose2d) else nn.Conv2d
    return network


def conditions(device: torch.device | None = None, threads: int | None = None) -> dict[str, Any]:
    """What the numbers rest on: versions, hardware, threads and how busy the machine was.

    Args:
        device: that is measured; the CPU without.
        threads: of the process that is measured; those of this one without.
    """
    return {
        "celladapt": __version__,
        "torch": str(torch.__version__),
        "device": torch.cuda.get_device_name(device) if device is not None and device.type == "cuda" else f"CPU ({_processor()})",
        "cores": os.cpu_count(),
        "threads": threads or torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def peak_mib() -> float:
    """The most memory that this process has held so far, in MiB; nan where the system does not tell (Windows)."""
    status = Path("/proc/self/status")
    if status.exists():  # there what ``resource`` tells begins with the peak of the process that started this one
        (peak,) = (line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak) / 2**10
    try:
        import resource
    except ImportError:
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2 ** (20 if sys.platform == "darwin" else 10)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def parser(description: str | None) -> argparse.ArgumentParser:
    """The command line that all speed benchmarks share."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--json", type=Path, help="file for the figures")
    result.add_argument("--quick", action="store_true", help="small sizes and few turns: whether it runs, not what it says")
    return result


def publish(file: Path | None, record: Mapping[str, Any]) -> None:
    """Write ``record`` to ``file``, or print it."""
    if file:
        write_json(file, record)
    else:
        print(json.dumps(record, indent=2, ensure_ascii=False))
