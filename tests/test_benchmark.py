"""Grids of runs: resuming, failing runs, runs side by side, and the row that learns nothing."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from children import Child
from helpers import in_this_process

import celladapt
from celladapt import benchmarking, side_by_side
from celladapt.adaptation import make_splits, prepare
from celladapt.benchmarking import parse_methods
from celladapt.checkpoint import load
from celladapt.classical import classical_mask
from celladapt.cli import main
from celladapt.config import Config, preset_options, with_options
from celladapt.data.folder import Folder
from celladapt.data.images import read_image
from celladapt.errors import InputError
from celladapt.metrics import foreground
from celladapt.reporting.grid import read_grid
from celladapt.run import Run

pytestmark = pytest.mark.usefixtures("one_thread", "no_charts")
TINY: dict[str, Any] = {"steps": 6, "width": 4, "crop": 32, "batch_size": 2, "validate_every": 3, "checkpoint_every": 2}


def rows(grid: Path) -> list[dict[str, str]]:
    with open(grid / "cells.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def prepared(domains: tuple[Path, Path], out: Path, **options: Any) -> Run:
    values = {**preset_options("fast"), **TINY, "baseline": False, "source": domains[0], "target": domains[1], **options}
    return prepare(with_options(Config(), values), out)


def test_a_benchmark_goes_on_where_it_stopped(tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarking, "carry_out_all", in_this_process)
    grid = tmp_path / "grid"
    first = celladapt.benchmark([tiny_domains], ["source_only", "cellsegssda@2"], grid, seeds=2, **TINY)
    table = (grid / "cells.csv").read_bytes()
    states = {cell.run.path: (cell.run.path / "run.json").read_bytes() for cell in first.cells}
    assert [(cell.method, cell.seed) for cell in first.cells] == [
        ("classical", 0), ("source_only", 0), ("source_only", 1), ("cellsegssda@2", 0), ("cellsegssda@2", 1),
    ]  # fmt: skip
    assert len({tuple(cell.run.splits[1].test) for cell in first.cells}) == 1
    again = celladapt.benchmark([tiny_domains], ["source_only", "cellsegssda@2"], grid, seeds=2, **TINY)
    assert all((path / "run.json").read_bytes() == before for path, before in states.items())
    assert (grid / "cells.csv").read_bytes() == table
    assert again.results() == first.results()
    (scores,) = first.results().values()
    assert scores["source_only"]["iou"] == pytest.approx(np.mean([cell.run.metrics["iou"] for cell in first.cells if cell.method == "source_only"]))
    report = (grid / "report.html").read_text(encoding="utf-8")
    assert "did NOT" not in report, "all runs saw the same files"
    other = celladapt.benchmark([tiny_domains], ["supervised"], grid, seeds=1, **TINY)  # runs of earlier calls stay in the table
    assert {row["method"] for row in rows(grid)} == {"classical", "source_only", "cellsegssda@2", "supervised"}
    assert set(next(iter(other.results().values()))) == {"classical", "source_only", "cellsegssda@2", "supervised"}
    with pytest.raises(InputError, match=r"other options \(steps\); choose another --out"):
        celladapt.benchmark([tiny_domains], ["source_only"], grid, seeds=1, **{**TINY, "steps": 5})


def test_nothing_is_begun_before_every_run_is_found_in_order(
    tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmarking, "carry_out_all", in_this_process)
    grid = tmp_path / "grid"
    for _ in range(2):
        with pytest.raises(InputError, match="reads no target masks"):
            celladapt.benchmark([tiny_domains], ["supervised", "source_only"], grid, seeds=1, **TINY, target_labels="50%")
    celladapt.benchmark([tiny_domains], ["source_only"], grid, seeds=1, **TINY)  # as it was told to, and nothing is in the way


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ("a:b, c/d:e", [("a", "b"), ("c/d", "e")]),
        (r"C:\a:D:\b,C:/x:y", [(r"C:\a", r"D:\b"), ("C:/x", "y")]),
        ("a:/b", [("a", "/b")]),
        ("a", None),
        ("a:b:c", None),
    ],
)
def test_pairs_of_folders_may_be_on_drives(
    pairs: str, expected: list[tuple[str, str]] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(benchmarking, "benchmark", lambda folders, *_, **__: seen.append(folders) or sys.exit(0))
    if expected is None:
        assert main(["benchmark", "--pairs", pairs, "--out", str(tmp_path)]) == 2
        return
    with pytest.raises(SystemExit):
        main(["benchmark", "--pairs", pairs, "--out", str(tmp_path)])
    assert [tuple(map(str, pair)) for pair in seen[0]] == expected


def test_a_failing_run_leaves_the_others_alone_and_gives_exit_code_2(
    tiny_domains: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With real workers: what one says of its failure is told by the command line."""
    # So great a weight makes S infinite in its first step, and its loss NaN in the second.
    methods = ["cellseguda:lambda_rec=1e300", "source_only"]
    options = [f"--{key.replace('_', '-')}={value}" for key, value in {**TINY, "steps": 2}.items()]
    command = ["benchmark", "--pairs", ":".join(map(str, tiny_domains)), "--out", str(tmp_path / "grid"), "--seeds=1"]
    assert main([*command, f"--methods={','.join(methods)}", *options]) == 2
    told = capsys.readouterr()
    assert "1 of 3 runs failed" in told.err
    assert "Traceback" not in told.err
    assert "classical" in told.out
    by_method = {row["method"]: row for row in rows(tmp_path / "grid")}
    error = by_method[methods[0]]["error"]
    assert "loss term" in error
    assert error in told.out + told.err
    assert by_method[methods[0]]["iou"] == ""
    assert by_method["source_only"]["error"] == ""
    assert 0 <= float(by_method["source_only"]["iou"]) <= 1
    (scores,) = benchmarking.Benchmark(tmp_path / "grid", []).results().values()
    assert set(scores) == {"classical", "source_only"}


def benchmark_and_die(arguments: list[str]) -> int:
    """The command line in a process that is killed as the first run under way speaks, as by a power cut."""
    take = side_by_side._Worker.take

    def fatal(worker: side_by_side._Worker, line: bytes) -> int:
        if b"done" in line:
            os.kill(os.getpid(), signal.SIGKILL)
        return take(worker, line)

    side_by_side._Worker.take = fatal  # type: ignore[method-assign]
    return main(arguments)


@pytest.mark.slow  # the short campaign of faults does the like
def test_a_benchmark_killed_in_the_middle_ends_as_if_it_had_not_been(
    tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [f"--{key.replace('_', '-')}={value}" for key, value in {**TINY, "steps": 40, "checkpoint_every": 1, "validate_every": 20}.items()]
    command = ["benchmark", "--pairs", ":".join(map(str, tiny_domains)), "--seeds=2", "--methods=source_only", "--jobs=2", *options]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    monkeypatch.setattr(side_by_side, "_cores", lambda: 2)  # a thread for each run, as in the child
    with monkeypatch.context() as patch:
        patch.setattr(benchmarking, "carry_out_all", in_this_process)
        assert main([*command, "--out", str(whole)]) == 0
    killed = Child(tmp_path, benchmark_and_die, [*command, "--out", str(cut)]).ended()
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    # Orphans may still be saving; the same command waits for them.
    assert main([*command, "--out", str(cut)]) == 0
    drop = {"seconds", "run"}
    assert [{k: v for k, v in row.items() if k not in drop} for row in rows(cut)] == [
        {k: v for k, v in row.items() if k not in drop} for row in rows(whole)
    ]
    for seed in range(2):
        place = Path("source-to-target", "source_only", f"seed{seed}", "last.safetensors")
        a, b = load(whole / place)[0], load(cut / place)[0]
        assert all(a[key].equal(b[key]) for key in a)


def test_a_killed_run_is_named(tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take = side_by_side._Worker.take

    def killed(worker: side_by_side._Worker, line: bytes) -> int:
        worker.process.kill()
        return take(worker, line)

    monkeypatch.setattr(side_by_side._Worker, "take", killed)
    run = prepared(tiny_domains, tmp_path / "cut", steps=400, validate_every=400, checkpoint_every=1)
    ((name, failure),) = side_by_side.carry_out_all({"cut": run}, jobs=1)
    assert name == "cut"
    assert failure is not None
    assert "killed by signal 9" in failure.sentence
    assert not run.finished


def test_a_run_whose_process_cannot_begin_takes_no_other_with_it(
    tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str, *arguments: object) -> None:
        raise PermissionError(13, f"Permission denied for {name}")

    monkeypatch.setattr(side_by_side, "_Worker", refuse)
    run = prepared(tiny_domains, tmp_path / "run")
    for name, failure in side_by_side.carry_out_all({"a": run, "b": run, "c": run}, jobs=2):
        assert failure is not None
        assert f"Permission denied for {name}" in failure.sentence
        assert not failure.ours


def test_side_by_side_equals_alone(tiny_domains: tuple[Path, Path], tmp_path: Path) -> None:
    runs = {str(n): prepared(tiny_domains, tmp_path / str(n)) for n in range(2)}
    assert dict(side_by_side.carry_out_all(runs, jobs=2)) == {"0": None, "1": None}
    assert [(run.path / side_by_side.LOG).read_text() for run in runs.values()] == ["", ""], "workers end in peace"
    weights = [load(run.path / "last.safetensors")[0] for run in runs.values()]
    assert all(weights[0][key].equal(other[key]) for other in weights[1:] for key in weights[0])


def test_a_worker_whose_parent_is_gone_saves_and_stops(tiny_domains: tuple[Path, Path], tmp_path: Path) -> None:
    run = prepared(tiny_domains, tmp_path / "run", steps=100_000, validate_every=100_000, checkpoint_every=100_000)
    worker = subprocess.Popen([sys.executable, "-m", "celladapt.worker", str(run.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert worker.stdin
    assert worker.stdout
    assert json.loads(worker.stdout.readline())["done"] >= 1
    worker.stdin.close()
    assert "Stopped" in json.loads(worker.stdout.read().splitlines()[-1])["error"]
    assert worker.wait(timeout=60) == 0
    assert 1 <= load(run.path / "last.safetensors")[1]["step"] < 100_000


def test_what_a_library_prints_is_no_message(tiny_domains: tuple[Path, Path], tmp_path: Path) -> None:
    worker = side_by_side._Worker.__new__(side_by_side._Worker)
    worker._done, worker._last = 0, {}
    assert worker.take(b'{"done": 7}\n') == 7
    assert worker.take(b"Warning: 12 is deprecated\n") == 7
    assert worker.take(b"12\n") == 7


def test_methods_with_other_labels_may_leave_out_the_name() -> None:
    assert parse_methods("source_only,cellsegssda@10%,@25%,@5,supervised") == [
        "source_only", "cellsegssda@10%", "cellsegssda@25%", "cellsegssda@5", "supervised",
    ]  # fmt: skip
    assert parse_methods("cellsegssda@10%:lambda_rec=0, @25% ,supervised") == [
        "cellsegssda@10%:lambda_rec=0",
        "cellsegssda@25%:lambda_rec=0",
        "supervised",
    ]
    with pytest.raises(InputError, match="is not a method"):
        parse_methods("cellsegssda:lambda_rec=0@10%")
    with pytest.raises(InputError, match="needs a method before it"):
        parse_methods("@25%")


def test_a_damaged_test_image_fails_its_rows_and_is_named(tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarking, "carry_out_all", in_this_process)
    source, target = tiny_domains
    _, split = make_splits(Config(source=source, target=target), Folder.open(source), Folder.open(target))
    image = target / "images" / f"{split.test[0]}.png"
    image.write_bytes(image.read_bytes()[:200])
    done = celladapt.benchmark([tiny_domains], ["source_only"], tmp_path / "grid", seeds=1, **TINY)
    assert [image.name in failure.sentence for failure in done.failures.values()] == [True, True]
    assert not any(failure.ours for failure in done.failures.values())


def test_a_launcher_is_refused(tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="without a launcher"):
        celladapt.benchmark([tiny_domains], ["source_only"], tmp_path / "grid", seeds=1, **TINY)


def test_workers_share_the_cores(tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = prepared(tiny_domains, tmp_path / "run")
    monkeypatch.setattr(side_by_side, "_cores", lambda: 8)
    assert side_by_side._environment(run, slot=1, jobs=3)["OMP_NUM_THREADS"] == "2"
    assert side_by_side._environment(run, slot=1, jobs=16)["OMP_NUM_THREADS"] == "1"
    monkeypatch.setattr(side_by_side, "usable_gpus", lambda: [0, 2])
    assert side_by_side._environment(run, slot=1, jobs=3)["CUDA_VISIBLE_DEVICES"] == "2"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,7")
    assert [side_by_side._environment(run, slot, jobs=3)["CUDA_VISIBLE_DEVICES"] for slot in range(3)] == ["4", "7", "4"]
    assert side_by_side.sensible_jobs({str(n): run for n in range(9)}) == 2


def test_pairs_that_would_share_a_folder_are_refused(tiny_domains: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="twice"):
        celladapt.benchmark([tiny_domains, tiny_domains], ["source_only"], tmp_path / "grid", seeds=1, **TINY)
    pairs = [(tmp_path / "a-to-b", tmp_path / "c"), (tmp_path / "a", tmp_path / "b-to-c")]
    for folder in {folder for pair in pairs for folder in pair}:
        shutil.copytree(tiny_domains[0], folder)
    with pytest.raises(InputError, match="twice"):
        celladapt.benchmark(pairs, ["source_only"], tmp_path / "grid", seeds=1, **TINY)
    assert not (tmp_path / "grid").exists()


@pytest.mark.parametrize("domain", [0, 1])
def test_the_classical_row_finds_blobs_whatever_their_polarity(tiny_domains: tuple[Path, Path], domain: int) -> None:
    folder = Folder.open(tiny_domains[domain])
    for stem in folder.images:
        image, truth = folder.pair(stem)
        assert foreground(classical_mask(image), truth > 0).iou > 0.8


def test_a_black_margin_does_not_draw_the_threshold_to_itself() -> None:
    y, x = np.mgrid[:120, :120]
    nuclei = np.hypot(y % 40 - 20, x % 40 - 20) <= 9
    rng = np.random.default_rng(0)
    image = np.clip(np.where(nuclei[..., None], [110, 60, 140], [235, 200, 220]) + rng.normal(0, 8, (120, 120, 3)), 1, 255).astype(np.uint8)
    framed = np.pad(image, ((12, 12), (12, 12), (0, 0)))
    found = classical_mask(framed)
    assert not found[:12].any()
    assert foreground(found[12:-12, 12:-12], nuclei).iou > 0.95


def test_the_classical_row_of_an_image_of_one_colour_is_empty() -> None:
    assert not classical_mask(np.full((40, 30), 7, np.uint8)).any()
    assert classical_mask(np.full((40, 30, 3), 40_000, np.uint16)).shape == (40, 30)


def test_the_classical_row_on_stained_tissue(shared_data: Path) -> None:
    folder = Folder.open(shared_data / "dsb2018" / "tissue-violet")
    dice = [foreground(classical_mask(read_image(folder.images[stem])), folder.mask(stem) > 0).dice for stem in list(folder.images)[:10]]
    assert np.mean(dice) > 0.75


def test_a_preset_that_falls_back_does_not_in_a_benchmark(tiny_domains: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row of a method would hold source-only's scores."""
    assert preset_options("best")["fallback"]
    planned = benchmarking._plan
    found: list[bool] = []

    def plan(*arguments: Any) -> Any:
        found.extend(cell.config.fallback for cell in planned(*arguments))
        raise InputError("Enough.")

    monkeypatch.setattr(benchmarking, "_plan", plan)
    for options, falls_back in (({}, False), ({"fallback": True}, True)):
        found.clear()
        with pytest.raises(InputError, match="Enough"):
            celladapt.benchmark([tiny_domains], ["weakuda"], tmp_path / "grid", 1, "best", **options)
        assert set(found) == {falls_back}


def test_a_table_that_a_spreadsheet_has_saved_is_read_or_refused_and_never_emptied(tmp_path: Path) -> None:
    file, text = tmp_path / "cells.csv", "pair,method,seed,iou,run\nPräparat → b,source_only,0,0.5,a\n"
    file.write_text(text, encoding="utf-8-sig")
    assert [row["pair"] for row in benchmarking.earlier_cells(file)] == ["Präparat → b"]
    assert read_grid(tmp_path).pairs == ["Präparat → b"]
    for saved, words in ((text.replace("→", "-").encode("cp1252"), "not UTF-8"), (text.replace(",", ";").encode(), "not the columns")):
        file.write_bytes(saved)
        with pytest.raises(InputError, match=rf"cells\.csv .*{words}.*delete it, and it is made anew"):
            celladapt.benchmark([(tmp_path, tmp_path)], ["source_only"], tmp_path)
        assert file.read_bytes() == saved
