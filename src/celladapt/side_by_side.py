"""Several runs at a time on one machine: each in a process with its share of the cores, or with a GPU.

Small networks leave cores idle: on two cores, two runs of one thread each took 0.64 of the time of two runs in turn. A run that fails, or is killed for
its memory, takes no other with it.
"""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celladapt.hardware import usable_gpus
from celladapt.progress import Bar
from celladapt.run import Run

BYTES_PER_JOB = 4 * 2**30
"""Main memory that must be there for each run on the CPU."""
LOG = "worker.log"


@dataclass(frozen=True)
class Failure:
    """Why a run did not finish, in a sentence, and whether that is a fault of ours rather than of its input."""

    sentence: str
    ours: bool


def sensible_jobs(runs: Mapping[str, Run]) -> int:
    """How many of ``runs`` to train at a time: one for each GPU, or one for each core with 4 GiB of memory.

    Finished runs count too, so that a benchmark that is continued gives each run the threads that it would have had.
    """
    gpus = usable_gpus() if any(run.config.device != "cpu" for run in runs.values()) else []
    if gpus:
        return max(1, min(len(runs), len(gpus)))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else BYTES_PER_JOB
    return max(1, min(len(runs), _cores(), memory // BYTES_PER_JOB))


def carry_out_all(runs: Mapping[str, Run], jobs: int) -> Iterator[tuple[str, Failure | None]]:
    """Carry out every run that is not finished, ``jobs`` at a time; yield each one's name and how it ended, as it ends.

    Args:
        runs: name -> prepared run, in the order to begin them.
        jobs: how many at a time; they share the cores evenly, and the GPUs in turn.

    Raises:
        KeyboardInterrupt: after every run that was under way has saved a checkpoint.
    """
    waiting = [(name, run) for name, run in runs.items() if not run.finished]
    steps = {name: run.config.steps if run.finished else 0 for name, run in runs.items()}
    free, active = list(range(jobs)), dict[str, _Worker]()
    heard = queue.Queue[tuple[str, bytes | None]]()
    with Bar("training steps", sum(run.config.steps for run in runs.values()), sum(steps.values())) as bar:
        try:
            while waiting or active:
                while waiting and free:
                    name, run = waiting.pop(0)
                    try:
                        active[name] = _Worker(name, run, free[0], jobs, heard)
                    except OSError as error:
                        cure = "check its permissions, the disk and the memory"
                        sentence = f"{run.path} cannot be written, or no process be started for it ({error.strerror}); {cure}."
                        yield name, Failure(sentence, ours=False)
                    else:
                        free.pop(0)
                if not active:
                    continue
                name, line = heard.get()
                if line is not None:
                    steps[name] = active[name].take(line)
                else:
                    worker = active.pop(name)
                    free.append(worker.slot)
                    steps[name] = runs[name].config.steps
                    yield name, worker.verdict()
                under_way = ", ".join(f"{name} {steps[name]}/{runs[name].config.steps}" for name in active)
                bar.move(sum(steps.values()), f"{len(runs) - len(waiting) - len(active)} of {len(runs)} runs done; {under_way}")
        finally:
            for worker in active.values():
                worker.stop()
            for worker in active.values():
                worker.process.wait()


class _Worker:
    """A process that carries out one run; a thread passes on each line that it says, and None at its end."""

    def __init__(self, name: str, run: Run, slot: int, jobs: int, heard: "queue.Queue[tuple[str, bytes | None]]") -> None:
        self.slot = slot
        self._run, self._done, self._last = run, 0, dict[str, Any]()
        # -P: the user's own folder must not lend its modules to the worker.
        command = [sys.executable, "-P", "-m", "celladapt.worker", str(run.path.absolute())]
        with open(run.path / LOG, "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=_environment(run, slot, jobs))
        threading.Thread(target=self._pass_on, args=(name, heard), daemon=True).start()

    def _pass_on(self, name: str, heard: "queue.Queue[tuple[str, bytes | None]]") -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            heard.put((name, line))
        heard.put((name, None))

    def stop(self) -> None:
        """Let it save and end: to a worker the end of its input says that nobody needs it."""
        assert self.process.stdin
        self.process.stdin.close()

    def take(self, line: bytes) -> int:
        """Note what it said; the steps it has done."""
        with contextlib.suppress(ValueError):  # a library that prints is not our message
            message = json.loads(line)
            self._last = message if isinstance(message, dict) else self._last
            self._done = self._last.get("done", self._done)
        return self._done

    def verdict(self) -> Failure | None:
        """How it ended."""
        code = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe
            pipe.close()
        if "error" in self._last:
            return Failure(self._last["error"], self._last["ours"])
        if "finished" in self._last:
            return None
        how = f"ended with code {code}" if code >= 0 else f"was killed by signal {-code}" + " (is there enough memory?)" * (code == -9)
        return Failure(f"Its process {how}; see {self._run.path / LOG}.", ours=code >= 0)


def _environment(run: Run, slot: int, jobs: int) -> dict[str, str]:
    """With this worker's threads and GPU, and this package on its path, wherever it was imported from."""
    here = str(Path(__file__).parents[1])
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(max(1, _cores() // jobs)), "OMP_WAIT_POLICY": "PASSIVE"}
    gpus = usable_gpus() if run.config.device != "cpu" else []
    if gpus:
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpu = gpus[slot % len(gpus)]
        environment["CUDA_VISIBLE_DEVICES"] = given.split(",")[gpu] if given else str(gpu)
    return environment


def _cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
