"""Whether a long run stays as it began: memory, open files, threads, and what grows on disk.

    python -m reliability.endurance [--steps 5000] [--images 500] [--out docs/reliability]

A real ``celladapt adapt`` (WeakUDA with validations and checkpoints, tiny networks) and a real ``celladapt predict`` (masks, labels, tables, GeoJSON) are watched
from outside, by Linux's /proc. Memory is judged by the medians of the second and of the last quarter of the samples: what comes before is warming up. Exits
with 1 where something grew.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from celladapt.data.images import write_image
from celladapt.files import atomic, write_json
from reliability.contents import left_behind

EVERY_SECONDS = 0.5
MAY_GROW = 0.02, 10.0
"""Share, and MiB: memory that grew by more than either has grown."""
KEPT = 120
"""Samples of each run that are written down."""
SAVE = "mask,instances,table,geojson"


@dataclass(frozen=True)
class Sample:
    """One look at a process."""

    seconds: float
    done: int
    """Steps or images."""
    memory: float
    """Resident, in MiB."""
    files: int
    """Open file descriptors."""
    threads: int


@dataclass(frozen=True)
class Verdict:
    """What the samples of one run say."""

    memory: tuple[float, float]
    """Medians of the second and of the last quarter, in MiB."""
    per_thousand: float
    """MiB gained for each 1,000 steps or images between those quarters."""
    files: tuple[int, int]
    """The most open at a time in those quarters."""
    threads: tuple[int, int]
    faults: tuple[str, ...]


def judge(samples: Sequence[Sample]) -> Verdict:
    """Hold the last quarter of ``samples`` against the second.

    Raises:
        ValueError: fewer than 8 samples say nothing.
    """
    if len(samples) < 8:
        raise ValueError(f"{len(samples)} samples are too few; let it run for longer.")
    quarter = len(samples) // 4
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]
    before, after = (statistics.median(sample.memory for sample in part) for part in (early, late))
    steps = statistics.median(sample.done for sample in late) - statistics.median(sample.done for sample in early)
    most = {name: (max(getattr(sample, name) for sample in early), max(getattr(sample, name) for sample in late)) for name in ("files", "threads")}
    faults = []
    if after - before > max(MAY_GROW[0] * before, MAY_GROW[1]):
        faults.append(f"memory grew from {before:.1f} to {after:.1f} MiB")
    faults += [f"{name} grew from {first} to {last}" for name, (first, last) in most.items() if last > first]
    return Verdict((before, after), 1000 * (after - before) / max(1.0, steps), most["files"], most["threads"], tuple(faults))


def watch(arguments: Sequence[str], done: Callable[[], int], every: float = EVERY_SECONDS) -> list[Sample]:
    """Run ``celladapt`` with ``arguments`` in a process of its own to its end, and look at it now and then from its first step or image on.

    Raises:
        SystemExit: it failed; what it said is printed.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        process = subprocess.Popen([sys.executable, "-m", "celladapt", *arguments], stdout=said, stderr=said)
        samples, began = [], time.monotonic()
        try:
            while process.poll() is None:
                count = done()
                status = _status(process.pid)
                if count and status:
                    samples.append(Sample(round(time.monotonic() - began, 2), count, *status))
                time.sleep(every)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"celladapt {arguments[0]} ended with {process.returncode}:\n{said.read()}")
    return samples


def _status(pid: int) -> tuple[float, int, int] | None:
    """Resident memory, open files and threads of a process; None once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
        found = {name: value.split()[0] for name, _, value in (line.partition(":") for line in lines) if name in ("VmRSS", "Threads")}
        return round(int(found["VmRSS"]) / 2**10, 2), len(os.listdir(f"/proc/{pid}/fd")), int(found["Threads"])
    except (OSError, KeyError):
        return None


def draw(folder: Path, count: int, seed: int, masks: bool) -> None:
    """``count`` images of violet discs on pink, of several sizes, and perhaps their masks."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        h, w = (int(side) for side in rng.choice([64, 80, 96, 128], 2))
        y, x = np.mgrid[:h, :w]
        labels = np.zeros((h, w), np.uint16)
        for number in range(1, h * w // 500):
            labels[np.hypot(y - rng.uniform(0, h), x - rng.uniform(0, w)) < rng.uniform(3, 7)] = number
        clean = np.where(labels[..., None] > 0, [110.0, 60.0, 140.0], [235.0, 200.0, 220.0]) - 20.0 * seed
        write_image(folder / "images" / f"{folder.name}{index:04d}.png", np.clip(clean + rng.normal(0, 8, clean.shape), 0, 255).astype(np.uint8))
        if masks:
            write_image(folder / "masks" / f"{folder.name}{index:04d}.png", labels)


def size(path: Path) -> int:
    """Bytes of a file or of all in a folder; 0 where there is none."""
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def train(folder: Path, steps: int, every: float = EVERY_SECONDS) -> tuple[list[Sample], dict[str, Any]]:
    """Watch an adaptation of ``steps`` steps into ``folder``/run: samples, and what it left on disk."""
    for name, seed in (("source", 1), ("target", 2)):
        draw(folder / name, 12, seed, masks=True)
    run = folder / "run"
    options = {
        "preset": "fast",
        "steps": steps,
        "width": 4,
        "crop": 32,
        "batch-size": 2,
        "validate-every": 100,
        "checkpoint-every": 100,
        "method": "weakuda",
    }
    folders = ["--source", str(folder / "source"), "--target", str(folder / "target"), "--out", str(run)]
    samples = watch(
        ["adapt", *folders, "--no-baseline", *(f"--{name}={value}" for name, value in options.items())], lambda: _last_step(run / "log.jsonl"), every
    )
    samples = [sample for sample in samples if sample.done < steps]  # the final evaluation and the report are another matter
    names = ("log.jsonl", "validation.jsonl", "events", "last.safetensors", "model.safetensors", ".")
    left = {name if name != "." else "whole folder": size(run / name) for name in names}
    per_step = {name: round(left[name] / steps, 1) for name in ("log.jsonl", "validation.jsonl", "events")}
    return samples, {
        "bytes": left,
        "bytes_per_step": per_step,
        "events_files": len(list((run / "events").iterdir())),
        "half_written": left_behind(run),
    }


def _last_step(log: Path) -> int:
    """The step of the last whole line."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            lines = file.read().split(b"\n")
        return int(json.loads(lines[-2])["step"])
    except (OSError, IndexError, ValueError):
        return 0


def segment(folder: Path, images: int, every: float = EVERY_SECONDS) -> tuple[list[Sample], dict[str, Any]]:
    """Watch a prediction of ``images`` images by the model in ``folder``/run: samples, and what it left on disk."""
    draw(folder / "new", images, 3, masks=False)
    out = folder / "out"
    notes = out / ".celladapt"

    def done() -> int:
        return sum(entry.name.endswith(".json") for entry in os.scandir(notes)) if notes.is_dir() else 0

    samples = watch(["predict", str(folder / "run"), str(folder / "new"), "--out", str(out), "--save", SAVE], done, every)
    samples = [sample for sample in samples if sample.done < images]
    return samples, {"bytes": {"whole folder": size(out)}, "files": sum(1 for _ in out.iterdir()), "half_written": left_behind(out)}


def chart(path: Path, runs: dict[str, list[Sample]]) -> None:
    """Memory over steps and over images, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    for axes, (name, samples) in zip(figure.subplots(1, len(runs), squeeze=False)[0], runs.items(), strict=True):
        axes.plot([sample.done for sample in samples], [sample.memory for sample in samples], linewidth=1)
        axes.set(xlabel=name, ylabel="resident memory (MiB)", ylim=(0, 1.2 * max(sample.memory for sample in samples)))
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=110)


def main() -> None:
    """Watch both, write ``endurance.json`` and ``endurance.png``, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--out", type=Path, default=Path("docs/reliability"))
    a = parser.parse_args()
    if not Path("/proc/self/status").exists():
        raise SystemExit("Processes are watched by /proc, which only Linux has.")
    samples: dict[str, list[Sample]] = {}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name, (seen, left) in (("steps", train(Path(temporary), a.steps)), ("images", segment(Path(temporary), a.images))):
            verdict = judge(seen)
            samples[name] = seen
            found[name] = {"number": getattr(a, name), "seconds": seen[-1].seconds, "verdict": asdict(verdict), **left}
            print(f"{getattr(a, name)} {name}: {seen[-1].seconds:.0f} s, {len(seen)} samples")
            print(f"  memory   {verdict.memory[0]:.1f} -> {verdict.memory[1]:.1f} MiB ({verdict.per_thousand:+.2f} MiB for 1,000)")
            print(f"  files    {verdict.files[0]} -> {verdict.files[1]}, threads {verdict.threads[0]} -> {verdict.threads[1]}")
            print(f"  on disk  {json.dumps(left)}")
    thinned = {name: [asdict(sample) for sample in seen[:: -(-len(seen) // KEPT)]] for name, seen in samples.items()}
    write_json(a.out / "endurance.json", {**found, "samples": thinned})
    chart(a.out / "endurance.png", samples)
    faults = [f"{name}: {fault}" for name, run in found.items() for fault in (*run["verdict"]["faults"], *run["half_written"])]
    print("grew: " + "; ".join(faults) if faults else "flat: neither memory nor open files grew.")
    raise SystemExit(bool(faults))


if __name__ == "__main__":
    main()
