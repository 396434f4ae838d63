"""What a second process brings, and what processes say to each other.

    python -m benchmarks.scaling --json scaling.json

One training process and two, each with one thread and its own batch (weak scaling). The headline ratio is the throughput of two over that of one: 2 would
be perfect. Cores that share their memory or their arithmetic stay below it without any fault of the program, so the same is measured for two
processes that do not speak to each other; the efficiency of the communication is the quotient.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.measure import clock, conditions, parser, publish
from benchmarks.train_step import ours
from celladapt import parallel
from celladapt.config import MethodSpec
from celladapt.methods import build


def seconds_of_a_step(width: int, side: int, batch: int, steps: int, begin: Callable[[], None]) -> float:
    """Median over ``steps``, in this process of however many; ``begin`` returns when all are ready."""
    torch.set_num_threads(1)
    parallel.start()
    step = ours(width, side, batch, torch.device("cpu")).step
    for _ in range(3):
        step()
    begin()
    return statistics.median(clock(step) for _ in range(steps))


def launched(folder: Path, processes: int, together: bool, size: tuple[int, int, int, int]) -> float:
    """Seconds of a step, the mean over ``processes`` that run at once, with or without a process group."""
    arguments = ["--worker", str(folder), *map(str, size)]
    if together:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m", "benchmarks.scaling"]
        commands = [[*launcher, *arguments]]
    else:
        commands = [[sys.executable, "-m", "benchmarks.scaling", *arguments, str(number), str(processes)] for number in range(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    for old in (*folder.glob("*.seconds"), *folder.glob("*.ready")):
        old.unlink()
    with (folder / "errors").open("w+") as errors:
        running = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=errors) for command in commands]
        if sum(process.wait() != 0 for process in running):
            errors.seek(0)
            raise SystemExit(f"{' '.join(commands[0])} failed: {errors.read()[-500:]}")
    return statistics.mean(float(file.read_text()) for file in folder.glob("*.seconds"))


def worker(values: list[str]) -> None:
    """Measure in this process and leave the figure in the folder; processes without a group wait for each other's files."""
    folder, width, side, batch, steps, *alone = values
    name = alone[0] if alone else os.environ.get("RANK", "0")

    def begin() -> None:
        (Path(folder) / f"{name}.ready").touch()
        while alone and len(list(Path(folder).glob("*.ready"))) < int(alone[1]):
            pass
        parallel.wait()

    seconds = seconds_of_a_step(int(width), int(side), int(batch), int(steps), begin)
    (Path(folder) / f"{name}.seconds").write_text(str(seconds))


def main() -> None:
    """Measure and publish."""
    command: argparse.ArgumentParser = parser(__doc__)
    command.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    a = command.parse_args()
    if a.worker:
        return worker(a.worker)
    size, turns = ((8, 32, 2, 5), 2) if a.quick else ((16, 128, 4, 20), 5)
    before = conditions(threads=1)
    two, apart = [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for _ in range(turns):
            one = launched(folder, 1, True, size)
            two.append(2 * one / launched(folder, 2, True, size))
            apart.append(2 * one / launched(folder, 2, False, size))
    low, median, high = statistics.quantiles(two, n=4, method="inclusive")
    networks = build(MethodSpec.parse("cellseguda"), 64).networks
    layers = {name: sum(isinstance(module, parallel.BatchNorm2d) for module in network.modules()) for name, network in networks.items()}
    publish(
        a.json,
        {
            "ratio": round(median, 3),
            "quartiles": [round(low, 3), round(high, 3)],
            "turns": turns,
            "what": f"two processes over one, width {size[0]}, batch {size[2]} x {size[1]} x {size[1]} each",
            "two_that_do_not_speak": round(statistics.median(apart), 3),
            "efficiency_of_communication": round(median / statistics.median(apart), 3),
            "gradient_bytes_a_step_at_published_width": {
                name: sum(p.numel() * p.element_size() for p in network.parameters()) for name, network in networks.items()
            },
            # S runs on both domains; each layer sends one message going forward (count, mean and variance) and one going back (two sums).
            "batch_norm_messages_a_step": (2 * layers["S"] + layers["R"]) * 2,
            **before,
        },
    )


if __name__ == "__main__":
    main()
