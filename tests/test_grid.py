"""A benchmark folder as values: what is averaged, what is left out, and what is said about it."""

import csv
import json
import re
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from celladapt.data.split import grouped
from celladapt.errors import InputError
from celladapt.reporting.conditions import cautions, facts, failures, machine, notes
from celladapt.reporting.differences import compare, group_of
from celladapt.reporting.grid import Grid, read_grid

MEASURES = ("iou", "dice", "aji", "pq", "f1")
Scores = dict[str, dict[str, list[list[float] | str]]]
"""Pair -> method -> for each seed the IoU of each image, or the sentence it failed with."""

ONE_PAIR: Scores = {
    "grey → violet": {
        "source_only": [[0.4, 0.6], [0.5, 0.7], [0.6, 0.8]],  # 0.5, 0.6, 0.7
        "cellseguda": [[0.6, 0.6], [0.7, 0.7], [0.8, 0.8]],  # 0.6, 0.7, 0.8
        "classical": [[0.3, 0.4]],
        "supervised": [[0.7, 0.7], [0.8, 0.8], [0.9, 0.9]],  # 0.7, 0.8, 0.9
    }
}


def write_grid(folder: Path, scores: Scores, **config: Any) -> Path:
    """A benchmark folder as benchmarking leaves it; Dice is half of IoU, AJI, PQ and F1 a quarter."""
    rows = []
    for number, (pair, methods) in enumerate(scores.items()):
        for method, seeds in methods.items():
            for seed, images in enumerate(seeds):
                place = f"pair{number}/{method.replace(':', '_').replace('%', 'pct')}/seed{seed}"
                row = {"pair": pair, "method": method, "seed": seed, **dict.fromkeys(MEASURES, ""), "seconds": "", "run": place, "error": ""}
                if isinstance(images, str):
                    row["error"] = images
                else:
                    row |= write_scored_run(folder / place, method, seed, images, config) | {"seconds": 10 * (seed + 1)}
                rows.append(row)
    write_cells(folder, rows)
    return folder


def write_scored_run(folder: Path, method: str, seed: int, iou: list[float], config: dict[str, Any]) -> dict[str, float]:
    """The files of a run that the tables read, and its row of scores."""
    folder.mkdir(parents=True)
    images = {f"p{k}": {"iou": v, "dice": v / 2, "aji": v / 4, "pq": v / 4, "f1": v / 4} for k, v in enumerate(iou)}
    mean = {name: fmean(image[name] for image in images.values()) for name in MEASURES}
    (folder / "metrics.json").write_text(json.dumps({"mean": mean, "sd": mean, "images": images}))
    (folder / "report.html").touch()
    info: dict[str, Any] = {"celladapt": "0.1.0", "finished": "2026-01-01"}
    if method != "classical":
        info |= {"torch": "2.13.0", "device": "CPU (x86_64)", "arithmetic": "bf16", "threads": 2, "processes": 1}
        options = {"method": method, "seed": seed, "steps": 150, "width": 16, "crop": 128, "batch_size": 4, "split_seed": 0, "select": "infomax"}
        (folder / "config.toml").write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in (options | config).items()))
    (folder / "run.json").write_text(json.dumps(info))
    return mean


def write_cells(folder: Path, rows: list[dict[str, Any]]) -> None:
    with (folder / "cells.csv").open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def change(folder: Path, place: str, old: str, new: str) -> None:
    path = folder / place
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    return read_grid(write_grid(tmp_path, ONE_PAIR))


def test_means_spread_and_gap_by_hand(grid: Grid) -> None:
    (pair,) = grid.pairs
    assert grid.methods == ["classical", "source_only", "cellseguda", "supervised"], "what learns nothing comes first"
    entry = grid.entry(pair, "cellseguda", "iou")
    assert entry.mean == pytest.approx(0.7)
    assert entry.sd == pytest.approx(0.1)
    assert grid.entry(pair, "cellseguda", "dice").mean == pytest.approx(0.35)
    assert grid.entry(pair, "classical", "iou").sd is None
    assert grid.gap(pair, "cellseguda") == pytest.approx(0.5)
    assert grid.gap(pair, "supervised") == pytest.approx(1.0)
    assert grid.gap(pair, "classical") == pytest.approx((0.35 - 0.6) / 0.2)
    assert grid.seconds(pair, "cellseguda") == 20
    assert grid.test_images(pair) == ["p0", "p1"]
    assert grid.cells[0].link == "./pair0/source_only/seed0/report.html"


def test_no_gap_is_said_not_divided(tmp_path: Path) -> None:
    methods = ONE_PAIR["grey → violet"]
    narrow = read_grid(write_grid(tmp_path / "narrow", {"x": methods | {"supervised": [[0.61, 0.61]]}}))
    assert narrow.gap("x", "cellseguda") is None
    assert narrow.no_gap("x") == "supervised is not at least 0.02 IoU above source_only"
    wide_enough = read_grid(write_grid(tmp_path / "wide", {"x": {"source_only": [[0.55]], "supervised": [[0.57]]}}))  # a little less in binary
    assert wide_enough.no_gap("x") == ""
    alone = read_grid(write_grid(tmp_path / "alone", {"x": {"cellseguda": [[0.5]]}}))
    assert "No gap to close on x: source_only and supervised have no score there." in notes(alone)


def test_a_failed_run_is_counted_and_named(tmp_path: Path) -> None:
    scores = {"x": {"source_only": [[0.5], [0.6]], "da_adv": [[0.4], "The loss was not finite; lower --lr-s."]}}
    grid = read_grid(write_grid(tmp_path, scores))
    entry = grid.entry("x", "da_adv", "iou")
    assert (entry.mean, entry.sd, entry.runs, entry.failed) == (0.4, None, 2, 1)
    assert failures(grid) == ["da_adv on x, seed 1, failed: The loss was not finite; lower --lr-s."]


def test_an_old_file_without_the_column_error_is_read(tmp_path: Path) -> None:
    (tmp_path / "cells.csv").write_text("pair,method,seed,iou,dice\nx,source_only,0,0.5,nan\nx,da_adv,0,,\n")
    grid = read_grid(tmp_path)
    assert [cell.scores for cell in grid.cells] == [{"iou": 0.5}, {}]
    assert not failures(grid)
    assert "budget and split unknown" in facts(grid)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("pair,method\n", "holds no row"),
        ("nonsense", "holds no row"),
        ("pair,method,seed,iou\nx,source_only,0,high\n", r"the iou of source_only on x with seed 0 is 'high'; it must be a number from 0 to 1"),
        ("pair,method,seed,iou\nx,source_only,0,1.5\n", "is '1.5'"),
        ("pair,method,seed,iou\nx,source_only,0,inf\n", "is 'inf'"),
        ("pair,method,seed,iou\nx,source_only,0,0.5\nx,source_only,0,0.6\n", "names source_only on x with seed 0 2 times"),
    ],
)
def test_a_malformed_file_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "cells.csv").write_text(text)
    with pytest.raises(InputError, match=complaint):
        read_grid(tmp_path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cells\.csv cannot be read"):
        read_grid(tmp_path)


def test_the_facts_say_seeds_budget_split_and_images(grid: Grid) -> None:
    assert facts(grid) == "3 seeds (0-2); 150 steps, width 16, crop 128, batch 4; split seed 0; checkpoint picked by infomax; test images: 2."
    assert machine(grid) == "Computed with celladapt 0.1.0, torch 2.13.0, CPU (x86_64), bf16, 2 threads."
    assert cautions(grid) == []
    assert notes(grid)[0] == facts(grid)


def test_images_of_several_pairs_are_told_apart(tmp_path: Path) -> None:
    grid = read_grid(write_grid(tmp_path, {"x": {"source_only": [[0.5, 0.5]]}, "y": {"source_only": [[0.5]]}}, group="^p"))
    assert facts(grid).startswith("1 seed (0); ")
    assert facts(grid).endswith("images kept together by ^p; checkpoint picked by infomax; test images: 2 (x), 1 (y).")
    assert "One seed: the spread over seeds is unknown." in " ".join(notes(grid))


def test_other_budgets_are_said_loudly(tmp_path: Path) -> None:
    write_grid(tmp_path, ONE_PAIR)
    for seed in range(3):
        change(tmp_path, f"pair0/supervised/seed{seed}/config.toml", "steps = 150", "steps = 300")
    grid = read_grid(tmp_path)
    assert "150 or 300 steps" in facts(grid)
    assert "CAUTION: the runs DIFFER in steps." in facts(grid)
    assert cautions(grid) == ["Runs differ in steps: 150 for source_only, cellseguda; 300 for supervised."]


def test_options_that_differ_by_pair_or_by_run_are_told_so(tmp_path: Path) -> None:
    methods = {"source_only": [[0.5], [0.5]], "da_adv": [[0.5], [0.5]]}
    write_grid(tmp_path, {"x": methods, "y": methods})
    for method in methods:
        for seed in range(2):
            change(tmp_path, f"pair1/{method}/seed{seed}/config.toml", "width = 16", "width = 32")
    change(tmp_path, "pair0/da_adv/seed1/config.toml", "crop = 128", "crop = 64")
    assert cautions(read_grid(tmp_path)) == ["Runs differ in width: 16 for x; 32 for y.", "Runs differ in crop: 128 for 7 runs; 64 for 1 run."]


def test_other_images_other_files_and_edited_scores_are_found(tmp_path: Path) -> None:
    write_grid(tmp_path, ONE_PAIR)
    change(tmp_path, "pair0/cellseguda/seed0/metrics.json", '"p1"', '"q1"')
    for seed, digest in ((0, "aa"), (1, "bb")):
        change(tmp_path, f"pair0/supervised/seed{seed}/run.json", '"finished"', f'"fingerprint": {{"target": "{digest}"}}, "finished"')
    change(tmp_path, "cells.csv", "0.9,0.45,", "0.95,0.45,")
    text = " ".join(cautions(read_grid(tmp_path)))
    assert "Runs on grey → violet were NOT tested on the same images; comparisons use the 1 that all share." in text
    assert "Runs on grey → violet did NOT see the same target files" in text
    assert "cells.csv does not agree with metrics.json of supervised on grey → violet, seed 2: 0.950 against 0.900 IoU." in text


def test_a_number_of_test_images_that_differs_is_no_single_number(tmp_path: Path) -> None:
    grid = read_grid(write_grid(tmp_path, {"x": {"classical": [[0.3]], "source_only": [[0.5, 0.5, 0.5]]}}))
    assert facts(grid).endswith("test images: 1 or 3.")
    assert "comparisons use the 1 that all share" in " ".join(cautions(grid))


def test_other_machines_are_counted(tmp_path: Path) -> None:
    write_grid(tmp_path, ONE_PAIR)
    change(tmp_path, "pair0/supervised/seed0/run.json", "CPU (x86_64)", "NVIDIA H200")
    assert "CPU (x86_64), bf16, 2 threads (8 runs)" in machine(read_grid(tmp_path))
    assert "NVIDIA H200, bf16, 2 threads (1 run)" in machine(read_grid(tmp_path))


@pytest.mark.parametrize("pattern", ["^[^_]+", r"^(\w)\d", r"slide(\d)?", "_.*$"])
def test_groups_are_those_of_the_split(pattern: str) -> None:
    """The report may not import the split, so the rule is written twice."""
    stems = ["a1_x", "a1_y", "a2_x", "b1", "slide", "slide7", "öö"]
    folder: Any = SimpleNamespace(images=dict.fromkeys(stems), root=Path("images"))
    split = {stem: name for name, members in grouped(folder, pattern).items() for stem in members}
    assert {stem: group_of(re.compile(pattern), stem) for stem in stems} == split


def test_comparisons_use_the_groups_and_both_orders(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [[float(value) for value in rng.uniform(0.4, 0.6, 12)] for _ in range(4)]
    scores: Scores = {"x": {"source_only": [*images[:2]], "cellseguda": [*images[2:]]}}
    grid = read_grid(write_grid(tmp_path / "grouped", scores, group="p[0-9]"))  # p1, p10 and p11 are one group
    found = compare(grid)
    one = found.find("x", "iou", "cellseguda", "source_only")
    other = found.find("x", "iou", "source_only", "cellseguda")
    assert one
    assert other
    assert one.difference.groups == 10
    assert other.difference.mean == -one.difference.mean
    assert other.difference.low == -(one.difference.high or 0)
    assert found.find("x", "aji", "cellseguda", "source_only") is None
    assert [c.a for c in found.with_source_only(grid, "x")] == ["cellseguda"]
    assert one.difference.mean == pytest.approx(float(np.mean(images[2:]) - np.mean(images[:2])))
    change(tmp_path / "grouped", "pair0/source_only/seed0/run.json", '"finished"', '"group": "p", "finished"')
    (first, *_) = compare(read_grid(tmp_path / "grouped")).every
    assert first.difference.groups == 1, "what the run recorded, which may come from the data folder, goes before what was asked for"
    with pytest.raises(InputError, match="not a regular expression"):
        compare(read_grid(write_grid(tmp_path / "bad", scores, group="(")))
