"""Two processes in one folder: who holds it is told, a stale lock is explained, and what a killed one left half-written goes."""

import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout
from helpers import picture, spread_model

import celladapt
from celladapt import adaptation, benchmarking, job, locks, provenance, run
from celladapt.config import Config, preset_options, with_options
from celladapt.data.images import write_image
from celladapt.data.split import Split
from celladapt.errors import InputError
from celladapt.files import HOST
from celladapt.locks import HOLDER, LOCK, alone, sweep
from celladapt.run import Run

pytestmark = pytest.mark.usefixtures("one_thread")

NOBODY = 2**22 + 1  # above every process number of Linux
HOLD = """
import sys
from pathlib import Path
from celladapt.files import atomic
from celladapt.files import HOST
from celladapt.locks import alone
folder = Path(sys.argv[1])
with alone(folder), atomic(folder / "last.safetensors") as temporary:
    temporary.write_text("half")
    print("held", flush=True)
    sys.stdin.read()
"""
TINY: dict[str, Any] = {"steps": 2, "width": 2, "crop": 32, "batch_size": 1, "validate_every": 2, "checkpoint_every": 2, "baseline": False}


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0)


@contextmanager
def held(folder: Path, **holder: Any) -> Iterator[None]:
    """A folder that somebody else holds, with what is known about him."""
    with FileLock(folder / LOCK):
        (folder / HOLDER).write_text(json.dumps(holder))
        yield


def test_two_processes_never_carry_out_one_run_at_a_time(tiny_domains: tuple[Path, Path], tmp_path: Path) -> None:
    values = {**preset_options("fast"), **TINY, "source": tiny_domains[0], "target": tiny_domains[1]}
    run = adaptation.prepare(with_options(Config(), values), tmp_path / "run")
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(run.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout
    assert other.stdin
    try:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(
            InputError, match=rf"Another process is working on .*run \({other.pid} on this machine, since 20.*\); wait until it has ended"
        ):
            celladapt.resume(run.path)
        assert not (run.path / "last.safetensors").exists()
    finally:
        other.kill()
        other.wait()
        other.stdin.close()
        other.stdout.close()
    half = run.path / f".last.{other.pid}-{HOST}.part.safetensors"
    assert half.exists(), "SIGKILL leaves it"
    assert celladapt.resume(run.path).finished
    assert not half.exists()
    assert not (run.path / HOLDER).exists()
    with alone(run.path):  # who only looks needs no lock
        assert celladapt.report(run.path).is_file()
        assert celladapt.predict(run.path, tiny_domains[1] / "images" / "target0.png", tmp_path / "out")
        assert celladapt.resume(run.path).finished


@pytest.mark.parametrize(
    ("holder", "words"),
    [
        (
            {"pid": NOBODY, "host": platform.node(), "since": "2026"},
            r"locked by process \d+, since 2026, which this machine no longer knows.*delete .*\.lock ",
        ),
        ({"pid": 7, "host": "node7", "since": "2026"}, r"\(7 on node7, since 2026\).*If node7 was switched off.*delete .*\.lock "),
        ({"pid": os.getpid(), "host": platform.node(), "since": "2026"}, r"on this machine, since 2026\); wait"),
        ({"pid": "?"}, r"Another process is working on .*; wait"),
    ],
    ids=["gone", "elsewhere", "here", "unknown"],
)
def test_who_holds_a_folder_is_told(tmp_path: Path, holder: dict[str, Any], words: str) -> None:
    with held(tmp_path, **holder), pytest.raises(InputError, match=words), alone(tmp_path):
        pass
    with alone(tmp_path):
        assert json.loads((tmp_path / HOLDER).read_text())["pid"] == os.getpid()
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_a_drive_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with pytest.raises(InputError, match=r"cannot be locked \(No locks available\); choose"), alone(tmp_path):
        pass


def test_the_lock_takes_away_what_killed_ones_left_below_it(tmp_path: Path) -> None:
    """Also of one whose number this process has now, as in a container that is started again."""
    (tmp_path / "examples").mkdir()
    names = [f".model.{NOBODY}-{HOST}.part.safetensors", f"examples/.image.{NOBODY}-{HOST}.part.png", f".last.{os.getpid()}-{HOST}.part.safetensors"]
    kept = [f".run.{os.getppid()}-{HOST}.part.json", ".notes.part", ".thesis.20231105.part.docx", f"examples/{NOBODY}-{HOST}.part.png"]
    for name in (*names, *kept):
        (tmp_path / name).write_text("half")
    (tmp_path / HOLDER).write_text(json.dumps({"pid": os.getpid(), "host": platform.node(), "container": HOST}))
    with alone(tmp_path):
        assert not any((tmp_path / name).exists() for name in names)
        assert all((tmp_path / name).exists() for name in kept)


def test_sweeping_spares_the_living_the_young_of_other_machines_and_what_is_not_ours(tmp_path: Path) -> None:
    old = time.time() - 2 * 86_400
    other = "".join(reversed(HOST)) if HOST[::-1] != HOST else "abcdef"
    gone = [tmp_path / f".a_mask.{NOBODY}-{HOST}.part.png", tmp_path / f".a_labels.zarr.{NOBODY}-{HOST}.part", tmp_path / f".old.1-{other}.part.tif"]
    kept = [
        tmp_path / name
        for name in (f".b.{os.getpid()}-{HOST}.part.png", ".DS_Store", f"c.{NOBODY}-{HOST}.part.png", f".young.{NOBODY}-{other}.part.tif")
    ]
    growing, mozilla = tmp_path / f".d.zarr.{NOBODY}-{other}.part", tmp_path / ".mozilla.99999999.old"
    for folder in (gone[1], growing, mozilla):
        folder.mkdir()
        (folder / "c").write_text("chunk")
    for path in (gone[0], gone[2], *kept):
        path.write_text("half")
    for path in (gone[2], *kept[:3], growing, mozilla / "c", mozilla):
        os.utime(path, (old, old))
    sweep(tmp_path.glob(".*"))
    assert sorted(tmp_path.iterdir()) == sorted([*kept, growing, mozilla]), "a folder is as young as the youngest in it"


def test_of_another_container_only_who_held_the_folder_is_known_to_have_ended(tmp_path: Path) -> None:
    """It may have this machine's name, and processes that this one does not see."""
    half, other = tmp_path / f".last.{NOBODY}-abcdef.part.safetensors", tmp_path / f".last.{NOBODY + 1}-abcdef.part.safetensors"
    for path in (half, other):
        path.write_text("half")
    (tmp_path / HOLDER).write_text(json.dumps({"pid": NOBODY, "host": platform.node(), "container": "abcdef"}))
    with alone(tmp_path):
        assert not half.exists()
        assert other.exists()


def test_a_folder_that_goes_away_meanwhile_is_passed_over(tmp_path: Path) -> None:
    """As those of slides do, when another call into the same output folder is done with them."""
    for name in ("a", "b"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / ".x").write_text("")
    found = locks._hidden_in(tmp_path)
    first = next(found)
    shutil.rmtree(tmp_path / ("b" if "a" in first.parts else "a"))
    assert list(found) == []


def test_what_was_put_aside_comes_back_where_its_place_is_empty(tmp_path: Path) -> None:
    """A kill between the two renames of replacing a folder."""
    for name in ("a.zarr", "b.zarr"):
        (tmp_path / f".{name}.{NOBODY}-{HOST}.old").mkdir()
        (tmp_path / f".{name}.{NOBODY}-{HOST}.old" / "c").write_text("mine")
        (tmp_path / f".{name}.{NOBODY}-{HOST}.part").mkdir()
    (tmp_path / "b.zarr").mkdir()
    sweep(tmp_path.glob(".*"))
    assert (tmp_path / "a.zarr" / "c").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zarr", "b.zarr"]


def test_predictions_sweep_their_folder(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", picture(0, 32, 32))
    out = tmp_path / "out"
    left = [out / f".a_mask.{NOBODY}-{HOST}.part.png", out / job.NOTES / f".a.{NOBODY}-{HOST}.part.json"]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
    celladapt.predict(spread_model(), tmp_path / "a.png", out)
    assert not any(path.exists() for path in left)


def test_a_folder_of_somebody_s_is_no_run_that_was_killed(tmp_path: Path) -> None:
    for names in (["split.json"], [".lock", "split.json", "chapter.part1.docx"]):
        folder = tmp_path / names[0]
        folder.mkdir()
        for name in names:
            (folder / name).write_text("mine")
        with pytest.raises(InputError, match="exists already"):
            Run.create(folder, Config(), Split(["a"], [], []), Split(["a"], [], []))
        assert (folder / "split.json").read_text() == "mine"


def test_of_two_runs_that_begin_at_once_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both find the folder free before either writes; whoever comes second must not write over the first one's options."""
    both, free, ended = threading.Barrier(2, timeout=20), run._must_be_free, dict[int, Any]()
    first = threading.local()

    def together(path: Path) -> None:
        free(path)
        if not hasattr(first, "done"):
            first.done = True
            both.wait()

    def begin(seed: int) -> None:
        try:
            ended[seed] = Run.create(tmp_path / "run", Config(seed=seed), Split(["a"], [], []), Split(["b"], [], []))
        except InputError as error:
            ended[seed] = error

    monkeypatch.setattr(run, "_must_be_free", together)
    threads = [threading.Thread(target=begin, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = (seed for seed, result in ended.items() if isinstance(result, Run))
    assert isinstance(ended[3 - winner], InputError)
    assert Run(tmp_path / "run").config.seed == winner
    monkeypatch.setattr(run, "_must_be_free", free)
    begin(4)
    assert "exists already" in str(ended[4])


def test_a_benchmark_s_folder_is_held_too(tiny_domains: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "grid"
    out.mkdir()
    with held(out, pid=7, host="node7", since="2026"), pytest.raises(InputError, match="7 on node7"):
        benchmarking.benchmark([tiny_domains], ["source_only"], out, seeds=1, **{k: v for k, v in TINY.items() if k != "baseline"})
    assert {path.name for path in out.iterdir()} == {LOCK, HOLDER}


def test_two_models_in_one_folder_at_one_time_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "a.png", picture(0, 32, 32))
    write = job.write

    def meanwhile(word: str, path: Path, segmented: Any) -> None:
        write(word, path, segmented)
        note = tmp_path / "out" / job.NOTES / "a.json"
        note.write_text(json.dumps({**json.loads(note.read_text()), "identity": {"model": "another"}}))

    monkeypatch.setattr(job, "write", meanwhile)
    with pytest.raises(InputError, match=r"a\.png was segmented into .* by another process with another model"):
        celladapt.predict(spread_model(), tmp_path / "a.png", tmp_path / "out", save="mask")


def test_the_record_of_a_folder_is_changed_by_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "a.png", picture(0, 32, 32))
    read = provenance.record_of

    def guarded(folder: Path) -> dict[str, Any]:
        with pytest.raises(Timeout):
            FileLock(folder / job.NOTES / LOCK).acquire(timeout=0)
        return read(folder)

    monkeypatch.setattr(provenance, "record_of", guarded)
    model = spread_model(trained_on=[provenance.digest(tmp_path / "a.png")])
    celladapt.predict(model, tmp_path / "a.png", tmp_path / "out", save="mask")
    assert read(tmp_path / "out")["seen_in_training"] == ["a"]
