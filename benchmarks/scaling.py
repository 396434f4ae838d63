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
from pathlib import Path

import torch

from benchmarks.measure import clock, conditions, parser, publish
from benchmarks.train_step import ours
from celladapt import parallel
from celladapt.config import MethodSpec
from celladapt.methods import build


def seconds_of_a_step(width: int, side: int, batch: int, steps: int) -> float:
    """Median over ``steps``, in this process of however many."""
    torch.set_num_threads(1)
    parallel.start()
    step = ours(width, side, batch, torch.device("cpu")).step
    for _ in range(3):
        step()
    parallel.wait()
    return statistics.median(clock(step) for _ in range(steps))


def launched(folder: Path, processes: int, together: bool, size: tuple[int, int, int, int]) -> float:
    """Seconds of a step, the mean over ``processes`` that run at once, with or without a process group."""
    arguments = ["--worker", str(folder), *map(str, size)]
    if together:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m", "benchmarks.scaling"]
        commands = [[*launcher, *arguments]]
    else:
        commands = [[sys.executable, "-m", "benchmarks.scaling", *arguments, str(number)] for number in range(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    for old in folder.glob("*.seconds"):
        old.unlink()
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for command in commands]
    if sum(process.wait() != 0 for process in running):
        raise SystemExit(f"{commands[0]} failed")
    return statistics.mean(float(file.read_text()) for file in folder.glob("*.seconds"))


def worker(values: list[str]) -> None:
    """Measure in this process and leave the figure in the folder."""
    folder, width, side, batch, steps, *number = values
    seconds = seconds_of_a_step(int(width), int(side), int(batch), int(steps))
    (Path(folder) / f"{os.environ.get('RANK', number[0] if number else '0')}.seconds").write_text(str(seconds))


def main() -> None:
    """Measure and publish."""
    command: argparse.ArgumentParser = parser(__doc__)
    command.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    a = command.parse_args()
    if a.worker:
        return worker(a.worker)
    size, turns = ((8, 32, 2, 5), 2) if a.quick else ((16, 128, 4, 20), 5)
    before = conditions()
    two, apart = [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for _ in range(turns):
            one = launched(folder, 1, True, size)
            two.append(2 * one / launched(folder, 2, True, size))
            apart.append(2 * one / launched(folder, 2, False, size))
    low, median, high = statistics.quantiles(two, n=4, method="inclusive")
    networks = build(MethodSpec.parse("cellseguda"), 64).networks
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
            **before,
        },
    )


if __name__ == "__main__":
    main()
