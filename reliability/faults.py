"""Faults on purpose: processes killed at random moments, full disks, folders that turn read-only, damaged checkpoints.

``python -m reliability.faults --kills 20``. Each fault meets ``adapt``, ``benchmark`` or ``predict`` at work. After it no output may be half-written, and the
command that goes on must end with what undisturbed work ends with, byte for byte but for what ``contents`` says. Processes are forked from one that has
imported everything, so that the faults meet the work and not the start of Python.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: networks this small lose by a second thread, and forks must find none

import argparse
import contextlib
import ctypes
import multiprocessing
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import matplotlib.pyplot  # noqa: F401 (this and others: loaded before the first fork, so that no process need load it)
import numpy as np
import skimage.measure
import skimage.segmentation  # noqa: F401
import tifffile
import torch.utils.tensorboard  # noqa: F401
import zarr  # noqa: F401
from benchmarks.documents import put
from rich.console import Console
from rich.table import Table

import celladapt.benchmarking
import celladapt.cli
import celladapt.evaluation
import celladapt.expectation
import celladapt.prediction
import celladapt.reporting.figures
from celladapt.checkpoint import previous
from celladapt.data.synthetic import embedded, specimen
from celladapt.files import now, write_json
from celladapt.train import LAST
from reliability.contents import contents, differences, half_written, left_behind

FORK = multiprocessing.get_context("fork")
PATIENCE = 300
"""Seconds after which a process counts as hanging."""
RUN = "--preset=fast --width=2 --crop=32 --batch-size=2 --validate-every=6 --checkpoint-every=2 --device=cpu"
GRID = "--methods=source_only,cellseguda --seeds=1 --steps=12 --jobs=2"


@dataclass(frozen=True)
class Work:
    """A command, and what it ends with when nothing disturbs it."""

    name: str
    begin: Callable[[Path], list[str]]
    """Output folder -> arguments of ``celladapt``."""

    def again(self, out: Path) -> list[str]:
        """The command that goes on with what lies in ``out``."""
        return ["adapt", "--resume", str(out)] if self.name == "adapt" and (out / "config.toml").exists() else self.begin(out)


@dataclass
class Tally:
    """What became of the faults of one kind at one kind of work."""

    faults: int = 0
    lost: list[str] = field(default_factory=list)

    @property
    def words(self) -> str:
        """For the table."""
        return f"{self.faults - len(self.lost)} of {self.faults}" if self.faults else ""


class Campaign:
    """Works, undisturbed results and what has come of the faults so far; all files are below ``root``."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.random = root, random.Random(seed)
        self.tallies: dict[tuple[str, str], Tally] = {}
        self.console = Console(width=150, highlight=False)
        source, target = embedded(root / "data", count=8, size=64)
        write_slide(root / "slides" / "slide.tif", specimen(512))
        folders = ["--source", str(source), "--target", str(target)]
        self.works = [
            Work("adapt", lambda out: ["adapt", *folders, "--out", str(out), *RUN.split(), "--steps=24"]),
            Work("benchmark", lambda out: ["benchmark", "--pairs", f"{source}:{target}", "--out", str(out), *RUN.split(), *GRID.split()]),
            Work("predict", lambda out: self._predict([*map(str, (target / "images", source / "images")), str(root / "slides")], out)),
        ]
        self.expected: dict[str, dict[str, str]] = {}
        self.seconds: dict[str, float] = {}
        self.bytes: dict[str, int] = {}
        for work in self.works:
            out, began = self.reference(work), time.monotonic()
            code, said = self.end(self.start(work.begin(out), out), out)
            if code:
                raise SystemExit(f"undisturbed {work.name} ended with {code}:\n{said}")
            self.seconds[work.name] = time.monotonic() - began
            self.expected[work.name] = contents(out)
            self.bytes[work.name] = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())

    def reference(self, work: Work) -> Path:
        """Where undisturbed work has put its outputs."""
        return self.root / "undisturbed" / work.name

    def _predict(self, images: list[str], out: Path) -> list[str]:
        model = self.root / "undisturbed" / "adapt" / "model.safetensors"
        outputs = "mask,instances,probability,geojson,table,overlay"
        return ["predict", str(model), *images, "--out", str(out), "--tile", "128", "--pixel-size", "0.25", "--save", outputs, "--device", "cpu"]

    # Processes

    def start(self, arguments: list[str], out: Path, rights: bool = True) -> BaseProcess:
        """``celladapt ARGUMENTS`` in a process group of its own; what it says goes into a file; without ``rights`` modes of files hold for root too."""
        process = FORK.Process(target=_celladapt, args=(arguments, self.log(out), rights))
        process.start()
        return process

    def log(self, out: Path) -> Path:
        """What the processes that worked on ``out`` said."""
        return self.root / "said" / f"{out.parent.name}-{out.name}.txt"

    def end(self, process: BaseProcess, out: Path) -> tuple[int, str]:
        """Wait for it: exit code (minus the signal's number, where one ended it) and what it said."""
        process.join(PATIENCE)
        if process.exitcode is None:
            kill_group(process)
            process.join()
            return -signal.SIGALRM, "hangs"
        log = self.log(out)
        return process.exitcode, log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""

    def finish(self, work: Work, out: Path) -> list[str]:
        """Let the work go on undisturbed; what is wrong with its end."""
        self.log(out).unlink(missing_ok=True)
        code, said = self.end(self.start(work.again(out), out), out)
        if code:
            return [f"going on ended with {code}: {said[-600:]}"]
        return [*half_written(out), *differences(self.expected[work.name], contents(out)), *left_behind(out)]

    def record(self, fault: str, work: Work, wrong: list[str], count: int = 1) -> None:
        """Count ``count`` faults, all lost if anything is wrong."""
        tally = self.tallies.setdefault((fault, work.name), Tally())
        tally.faults += count
        if wrong:
            tally.lost += ["; ".join(wrong)] * count
            self.console.print(f"LOST  {fault}, {work.name}: {'; '.join(wrong)}", markup=False)

    @contextlib.contextmanager
    def folder(self, work: Work) -> Iterator[Path]:
        """A new output folder, gone afterwards."""
        place = Path(tempfile.mkdtemp(prefix=f"{work.name}-", dir=self.root))
        try:
            yield place / "out"
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def moment(self, work: Work) -> float:
        """Seconds into the work, drawn."""
        return self.random.uniform(0, self.seconds[work.name])

    # Faults

    def signals(self, work: Work, number: signal.Signals, most: int = 4) -> int:
        """A chain of up to ``most`` interruptions, each at a random moment of what was left, then the rest in peace; how many there were."""
        sent, wrong = 0, []
        with self.folder(work) as out:
            for _ in range(self.random.randint(1, most)):
                self.log(out).unlink(missing_ok=True)
                process = self.start(work.again(out), out)
                process.join(self.moment(work))
                if process.exitcode is not None:  # it was quicker
                    code, said = self.end(process, out)
                    wrong += [f"it ended with {code} before the signal: {said[-600:]}"] if code else []
                    break
                self._send(work, process, number)
                code, said = self.end(process, out)
                sent += 1
                wrong += half_written(out) if out.exists() else []
                # Python itself shows, and goes on from, an interruption that meets it in a destructor.
                shown = "Traceback" in said and "Exception ignored in" not in said
                if number != signal.SIGKILL and (code not in (0, 130, -number) or shown):
                    wrong.append(f"{number.name} ended it with {code}: {said[-600:]}")
            if sent or wrong:
                self.record(number.name, work, [*wrong, *self.finish(work, out)], max(1, sent))
        return sent

    def _send(self, work: Work, process: BaseProcess, number: signal.Signals) -> None:
        assert process.pid
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        workers = [int(child) for child in children.read_text().split()] if work.name == "benchmark" and children.exists() else []
        # A power cut takes all of them, the kernel's memory killer one, a closed terminal sends to the group.
        victim = self.random.choice(["all", "parent", "worker" if workers and number == signal.SIGKILL else "all"])
        with contextlib.suppress(ProcessLookupError):
            if victim == "worker":
                os.kill(self.random.choice(workers), number)
            elif victim == "parent":
                os.kill(process.pid, number)
            else:
                os.killpg(process.pid, number)

    def full_disk(self, work: Work) -> None:
        """A disk that has room for a random part of the outputs, and later for all."""
        with self.folder(work) as out, small_disk(out.parent, int(self.bytes[work.name] * self.random.uniform(0.02, 0.95))) as grow:
            code, said = self.end(self.start(work.begin(out), out), out)
            wrong = [] if code == 2 and "Traceback" not in said else [f"a full disk ended it with {code}: {said[-1500:]}"]
            wrong += half_written(out) if out.exists() else []
            grow()
            self.record("disk full", work, [*wrong, *self.finish(work, out)])

    def read_only(self, work: Work) -> None:
        """Folders that may not be written to from a random moment on."""
        while True:
            with self.folder(work) as out:
                process = self.start(work.begin(out), out, rights=False)
                process.join(self.moment(work))
                if process.exitcode is not None:
                    continue
                places = [out.parent, *(place for place in out.rglob("*") if place.is_dir())]
                for place in places:
                    os.chmod(place, 0o555)
                code, said = self.end(process, out)
                if code == 0:  # all was written by then
                    continue
                wrong = [] if code == 2 and "Traceback" not in said else [f"a read-only folder ended it with {code}: {said[-1500:]}"]
                wrong += half_written(out) if out.exists() else []
                for place in places:
                    os.chmod(place, 0o755)
                self.record("read-only", work, [*wrong, *self.finish(work, out)])
                return

    def damage(self, work: Work, fault: str) -> None:
        """The newest checkpoint of a killed run, cut or with flipped bits; or both checkpoints."""
        while True:
            with self.folder(work) as out:
                newest = self._killed_between_checkpoints(work, out)
                if newest is None:
                    continue
                if fault == "both damaged":
                    for file in (newest, previous(newest)):
                        flip(file, self.random)
                    before = contents_of_all(newest.parent)
                    self.log(out).unlink(missing_ok=True)
                    code, said = self.end(self.start(work.again(out), out), out)
                    told = "are both damaged" in said and "Traceback" not in said and "fault of celladapt" not in said
                    wrong = [] if code == 2 and told else [f"both damaged ended with {code}: {said[-600:]}"]
                    wrong += [f"{name} was touched" for name, content in before.items() if (newest.parent / name).read_bytes() != content]
                    for file in (newest, previous(newest)):
                        file.unlink()
                    self.record(fault, work, [*wrong, *self.finish(work, out)])
                else:
                    {"truncated": truncate, "flipped": flip}[fault](newest, self.random)
                    said_in = newest.parent / "worker.log" if work.name == "benchmark" else self.log(out)
                    said_in.unlink(missing_ok=True)
                    process = self.start(work.again(out), out)
                    process.join(self.random.choice((PATIENCE, self.moment(work))))  # undisturbed, or killed once more on its way
                    kill_group(process)
                    code, _ = self.end(process, out)
                    warned = "WARNING" in said_in.read_text(encoding="utf-8") or code == -signal.SIGKILL
                    self.record(fault, work, [*([] if warned else ["nobody warned"]), *self.finish(work, out)])
                return

    def _killed_between_checkpoints(self, work: Work, out: Path) -> Path | None:
        """The newest checkpoint of a run that was killed when it had two; None where it was too quick."""
        process = self.start(work.begin(out), out)
        deadline = time.monotonic() + self.moment(work)
        while process.exitcode is None:
            process.join(0.02)
            both = [file for file in out.rglob(LAST) if previous(file).exists() and not (file.parent / "metrics.json").exists()]
            if both and time.monotonic() > deadline:
                kill_group(process)
                process.join()
                return next((file for file in both if file.exists() and previous(file).exists()), None)
        return None

    def damaged_model(self, work: Work) -> None:
        """A model with a flipped bit is refused in one sentence, and nothing is written."""
        with self.folder(work) as out:
            model = out.parent / "model.safetensors"
            shutil.copy(self.root / "undisturbed" / "adapt" / "model.safetensors", model)
            flip(model, self.random)
            arguments = ["predict", str(model), *work.begin(out)[2:]]
            code, said = self.end(self.start(arguments, out), out)
            told = said.count("\n") == 1 and "model.safetensors is damaged" in said
            self.record("model damaged", work, [] if code == 2 and told and not out.exists() else [f"ended with {code}: {said[-600:]}"])

    def table(self) -> Table:
        """Faults by kind and work: how many of how many survived."""
        names = [work.name for work in self.works]
        table = Table("fault", *names, title="survived, of faults", title_justify="left")
        for fault in dict.fromkeys(fault for fault, _ in self.tallies):
            table.add_row(fault, *(self.tallies.get((fault, name), Tally()).words for name in names))
        return table


def main() -> None:
    """Carry the campaign out, print its table and end with 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="at least so many SIGKILLs; other faults in proportion")
    parser.add_argument("--seed", type=int, default=None, help="of what is drawn; a new one by default")
    parser.add_argument("--write", type=Path, default=None, help="JSON file for the figures")
    options = parser.parse_args()
    seed = random.randrange(10**6) if options.seed is None else options.seed
    began = time.monotonic()
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="faults-") as root:
        campaign = Campaign(Path(root), seed)
        skipped = carry_out(campaign, options.kills)
    campaign.console.print(campaign.table(), f"undisturbed: {campaign.seconds}")
    for reason in skipped:
        print(f"not run: {reason}")
    faults, lost = sum(tally.faults for tally in campaign.tallies.values()), sum(len(tally.lost) for tally in campaign.tallies.values())
    if options.write:
        rows = [{"fault": fault, "work": work, "faults": t.faults, "lost": len(t.lost)} for (fault, work), t in campaign.tallies.items()]
        minutes, command = round((time.monotonic() - began) / 60), f"python -m reliability.faults --kills {options.kills} --seed {seed}"
        figures = {"date": now(), "command": command, "minutes": minutes, "faults": faults, "lost": lost, "rows": rows, "not_run": skipped}
        write_json(options.write, figures)
        put(options.write.parent.with_suffix(".md"), "faults", markdown(figures))
    print(f"faults {faults}, survived {faults - lost}, lost {lost}")
    sys.exit(1 if lost else 0)


def markdown(figures: dict[str, Any]) -> str:
    """The table of a campaign's figures, as written to JSON, for the documentation."""
    rows = {(row["fault"], row["work"]): row for row in figures["rows"]}
    faults, works = (list(dict.fromkeys(key[place] for key in rows)) for place in (0, 1))
    cells = [[f"{row['faults'] - row['lost']} of {row['faults']}" if (row := rows.get((fault, work))) else "" for work in works] for fault in faults]
    lines = [f"| survived, of faults | {' | '.join(works)} |", "|---|" + "--:|" * len(works)]
    lines += [f"| {fault} | {' | '.join(row)} |" for fault, row in zip(faults, cells, strict=True)]
    total = f"faults {figures['faults']}, survived {figures['faults'] - figures['lost']}, lost {figures['lost']}"
    left_out = "".join(f" Not run: {reason}." for reason in figures["not_run"])
    return "\n".join(lines) + f"\n\n`{total}`: `{figures['command']}`, {figures['minutes']} minutes, {figures['date'][:10]}.{left_out}"


def carry_out(campaign: Campaign, kills: int) -> list[str]:
    """Every kind of fault, at one work that is drawn or, where there are many kills, at each; what could not be done here, and why."""
    adapt, benchmark, predict = campaign.works
    turns, done, skipped = [adapt, predict, adapt, predict, benchmark], 0, []
    while done < kills:
        done += campaign.signals(turns[0], signal.SIGKILL)
        turns.append(turns.pop(0))
    each = kills // 50

    def some(*works: Work) -> list[Work]:
        return [*works] * each or [campaign.random.choice(works)]

    for number in (signal.SIGTERM, signal.SIGINT):
        for work in some(adapt, benchmark, predict):
            campaign.signals(work, number, most=2)
    for fault in ("truncated", "flipped", "both damaged"):
        for work in some(adapt, benchmark):
            campaign.damage(work, fault)
    for work in some(predict):
        campaign.damaged_model(work)
    disks = no_small_disks(campaign.root)
    if disks:
        skipped.append(f"disk full ({disks})")
    rights = "" if os.getuid() or sys.platform == "linux" else "root writes everywhere"
    if rights:
        skipped.append(f"read-only ({rights})")
    for work in some(adapt, benchmark, predict):
        if not disks:
            campaign.full_disk(work)
        if not rights:
            campaign.read_only(work)
    return skipped


def _celladapt(arguments: list[str], log: Path, rights: bool) -> None:
    """In a fork: run the command line."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what it starts in the background ignore it
    log.parent.mkdir(exist_ok=True)
    into = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(into, stream)
    if not rights and os.getuid() == 0:
        _give_up_rights()
    code = celladapt.cli.main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    raise SystemExit(code)


def _give_up_rights() -> None:
    """All capabilities of Linux, one of which lets root write where modes forbid it."""
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, none):
        raise OSError(ctypes.get_errno(), "capset")


def kill_group(process: BaseProcess) -> None:
    """SIGKILL to it and all that it started."""
    assert process.pid
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def truncate(file: Path, draw: random.Random) -> None:
    """Cut the file at a random length."""
    os.truncate(file, draw.randrange(file.stat().st_size))


def flip(file: Path, draw: random.Random) -> None:
    """Flip a bit in up to eight random bytes."""
    content = bytearray(file.read_bytes())
    for place in draw.sample(range(len(content)), draw.randint(1, 8)):
        content[place] ^= 1 << draw.randrange(8)
    file.write_bytes(content)


def contents_of_all(folder: Path) -> dict[str, bytes]:
    """Name -> bytes of the visible files directly in ``folder``."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file() and file.name[0] != "." and file.name != "worker.log"}


def write_slide(file: Path, image: np.ndarray) -> None:
    """A tiled TIFF of [H, W, 3] with one smaller level."""
    file.parent.mkdir(parents=True)
    with tifffile.TiffWriter(file) as tif:
        for level, pixels in enumerate((image, image[::2, ::2])):
            tif.write(pixels, tile=(64, 64), photometric="rgb", metadata=None, subifds=1 - level or None, subfiletype=level)


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Callable[[], None]]:
    """A disk of ``size`` bytes at ``folder``, and a function that makes it large."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={max(size, 2**16)}", "tmpfs", str(folder)], check=True, capture_output=True)

    def grow() -> None:
        subprocess.run(["mount", "-o", "remount,size=1G", str(folder)], check=True, capture_output=True)

    try:
        yield grow
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)


def no_small_disks(folder: Path) -> str:
    """Why ``small_disk`` cannot be had; empty where it can."""
    try:
        place = Path(tempfile.mkdtemp(dir=folder))
        with small_disk(place, 2**16):
            return ""
    except (OSError, subprocess.CalledProcessError):
        return "mounting a small tmpfs needs Linux and root"


if __name__ == "__main__":
    main()
