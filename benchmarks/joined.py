"""Finished benchmarks as one: a table of all their pairs, and what these say together.

    python -m benchmarks.joined GRID_OR_TABLE ... --out FOLDER                          joins them
    python -m benchmarks.joined GRID_OR_TABLE ... --out FOLDER --into docs/results.md  and puts what they say into the part named as FOLDER
    python -m benchmarks.joined ... --supervised TABLE                                  full supervision, where they lack it, is that of TABLE

``benchmarks.results`` and ``benchmarks.matrix`` read the new folder like any other.

A GRID is a benchmark's folder, of which the runs are copied without their checkpoints; a TABLE is a file like its ``cells.csv``, of which only
the scores are known. Full supervision reads no source: a pair without it gets that of another pair with the same target, among them or in TABLE.
"""

import argparse
import csv
import shutil
from pathlib import Path
from statistics import fmean, median

from benchmarks.documents import put
from benchmarks.selection import ADAPTED
from celladapt.reporting.conditions import across, as_percent
from celladapt.reporting.grid import CLASSICAL, SUPERVISED, Grid, read_grid
from celladapt.reporting.reading import SOURCE_ONLY
from celladapt.reporting.rendering import METRICS

DRAWN = {"source", "target"}


def join(sources: list[Path], out: Path, supervised: Path | None = None) -> Grid:
    """Join benchmark folders and tables into the new folder ``out``; where they lack full supervision, with that of the table ``supervised``.

    Raises:
        FileExistsError: ``out`` exists.
        InputError: they name a run twice, or a score is none.
    """
    out.mkdir(parents=True)
    rows = []
    for source in sources:
        for row in _rows(source / "cells.csv" if source.is_dir() else source):
            if source.is_dir() and row["run"]:
                shutil.copytree(source / row["run"], out / row["run"], ignore=shutil.ignore_patterns("*.safetensors", "checkpoints", "events"))
            rows.append(row if source.is_dir() else row | {"run": ""})
    bounds: dict[str, list[dict[str, str]]] = {}  # of the first pair that leads to a target
    for row in [*rows, *(_rows(supervised) if supervised else [])]:
        found = bounds.setdefault(_target(row["pair"]), [])
        if row["method"] == SUPERVISED and row["pair"] == (found[0]["pair"] if found else row["pair"]):
            found.append(row)
    have = {row["pair"] for row in rows if row["method"] == SUPERVISED}
    for pair in dict.fromkeys(row["pair"] for row in rows):
        if pair not in have:
            rows += [row | {"pair": pair, "run": ""} for row in bounds[_target(pair)]]
    with (out / "cells.csv").open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return read_grid(out)


def together(grid: Grid) -> str:
    """What all pairs say in the mean, over pairs and over targets, with and without the drawn sets; and on which adapting did harm."""
    real = [pair for pair in grid.pairs if not DRAWN & set(pair.split(" → "))]
    lines = [
        "| gaps of 0.05 or more | method | in | number | closed, mean | median | where more counts as 100 % | each target once |",
        "|---|---|---|--:|--:|--:|--:|--:|",
    ]
    for name, pairs in (("all pairs", grid.pairs), ("between real sets", real)):
        for method in (ADAPTED, CLASSICAL):
            for measure in ("iou", "pq", "f1"):
                found = {pair: share for pair, share in grid.large_gaps(method, measure).items() if pair in pairs}
                targets: dict[str, list[float]] = {}
                for pair, share in found.items():
                    targets.setdefault(_target(pair), []).append(share)
                values = (
                    fmean(found.values()),
                    median(found.values()),
                    fmean(min(share, 1) for share in found.values()),
                    fmean(map(fmean, targets.values())),
                )
                lines.append(f"| {name} | {method} | {METRICS[measure]} | {len(found)} | {' | '.join(map(as_percent, values))} |")
    return "\n".join([*_by_target(grid), "", *lines, "", *(f"- {note}" for note in [*across(grid), _single_runs(grid)])])


def _by_target(grid: Grid) -> list[str]:
    """A row for each target: IoU of every method, of the means over seeds the lowest to the highest over its pairs."""
    lines = [f"| target | pairs | {' | '.join(grid.methods)} |", "|---|--:|" + "--:|" * len(grid.methods)]
    for target in dict.fromkeys(map(_target, grid.pairs)):
        pairs = [pair for pair in grid.pairs if _target(pair) == target]
        cells = []
        for method in grid.methods:
            means = [f"{mean:.2f}" for pair in pairs if (mean := grid.entry(pair, method, "iou").mean) is not None]
            cells.append(" to ".join(sorted({min(means), max(means)})) if means else "–")
        lines.append(f"| {target} | {len(pairs)} | {' | '.join(cells)} |")
    return lines


def _single_runs(grid: Grid) -> str:
    """In how many runs the method is below source-only of the same seed, and by how much."""
    gains = []
    for pair in grid.pairs:
        low, here = (grid.entry(pair, name, "iou").values for name in (SOURCE_ONLY, ADAPTED))
        gains += [here[seed] - low[seed] for seed in here.keys() & low.keys()]
    below = [gain for gain in gains if gain < 0]
    return f"{ADAPTED} is below {SOURCE_ONLY} of the same seed in {len(below)} of {len(gains)} single runs{f', by {-min(below):.3f} IoU at most' if below else ''}."


def _rows(table: Path) -> list[dict[str, str]]:
    with table.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def _target(pair: str) -> str:
    return pair.split(" → ")[1]


def main() -> None:
    """Join, and print what the whole says or put it into a document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True, help="new folder for the joined benchmark")
    parser.add_argument("--supervised", type=Path, help="table with full supervision on the targets")
    parser.add_argument(
        "--into", type=Path, help="Markdown file with a part <!-- begin NAME --> ... <!-- end NAME --> for the name of the new folder"
    )
    a = parser.parse_args()
    text = together(join(a.sources, a.out, a.supervised))
    if a.into:
        put(a.into, a.out.name, text)
    else:
        print(text)


if __name__ == "__main__":
    main()
