"""A benchmark folder as values: its runs in order, and what each method scored on each pair."""

import csv
import os
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any
from urllib.parse import quote

from celladapt.cells import read_cells
from celladapt.errors import InputError
from celladapt.reporting.reading import SOURCE_ONLY, Run, number, read_run
from celladapt.reporting.rendering import METRICS

CLASSICAL = "classical"  # the baseline that learns nothing
SUPERVISED = "supervised"  # the upper bound
COLOURS, GREY = 12, 6  # in the style sheet; grey is for what learns nothing
SMALLEST_GAP = 0.02  # IoU from source-only to supervised below which a share of it means nothing
LARGE_GAP = 0.05  # from which a mean over pairs is not ruled by noise in the smallest of them


@dataclass(frozen=True)
class Cell:
    """One row of ``cells.csv``: a method on a pair with one seed.

    ``error`` says why it failed, "" where it did not; ``link`` leads from the benchmark folder to its own page, "" where there is none.
    """

    pair: str
    method: str
    seed: str
    scores: dict[str, float]
    seconds: float | None
    run: Run | None
    link: str
    error: str = ""

    @property
    def images(self) -> dict[str, dict[str, float]]:
        """Stem of each test image -> its scores in [0, 1]; empty where they are not known."""
        return self.run.scores.images if self.run and self.run.scores and not self.error else {}

    @property
    def learns(self) -> bool:
        """Whether its method is trained at all."""
        return learns(self.method)


@dataclass(frozen=True)
class Entry:
    """One measure of a method on a pair: ``values`` by seed, and how many of its ``runs`` failed."""

    values: dict[str, float]
    runs: int
    failed: int

    @property
    def mean(self) -> float | None:
        """Over seeds; None without any."""
        return fmean(self.values.values()) if self.values else None

    @property
    def sd(self) -> float | None:
        """Sample standard deviation over seeds (n - 1); None with fewer than two."""
        return stdev(self.values.values()) if len(self.values) > 1 else None


@dataclass(frozen=True)
class Grid:
    """A benchmark folder and at least one cell."""

    folder: Path
    cells: list[Cell]

    @cached_property
    def pairs(self) -> list[str]:
        """Domain pairs, in the order of the file."""
        return list(dict.fromkeys(cell.pair for cell in self.cells))

    @cached_property
    def methods(self) -> list[str]:
        """Methods as people write them, in the order of the file, what learns nothing first."""
        return sorted(dict.fromkeys(cell.method for cell in self.cells), key=learns)

    @cached_property
    def unlearned(self) -> list[str]:
        """Methods that learn nothing."""
        return [method for method in self.methods if not learns(method)]

    @cached_property
    def seeds(self) -> list[str]:
        """Seeds of the methods that learn (or of all, where none does), ascending."""
        seeds = {cell.seed for cell in self.cells if cell.learns} or {cell.seed for cell in self.cells}
        return sorted(seeds, key=lambda seed: (number(seed) is None, number(seed) or 0, seed))

    @cached_property
    def labelled(self) -> set[str]:
        """Methods of which a run used target labels, in training or in the choice of the checkpoint."""
        return {cell.method for cell in self.cells if cell.run and cell.run.uses_target_labels}

    @cached_property
    def usual_seeds(self) -> int:
        """How many scored seeds stand behind most numbers; a number with fewer is marked."""
        counts = Counter((cell.pair, cell.method) for cell in self.cells if cell.learns and cell.scores)
        return max(counts.values(), default=1)

    def of(self, pair: str, method: str) -> list[Cell]:
        """The runs of a method on a pair."""
        return [cell for cell in self.cells if (cell.pair, cell.method) == (pair, method)]

    def entry(self, pair: str, method: str, measure: str) -> Entry:
        """What a method scored on a pair by one measure."""
        cells = self.of(pair, method)
        return Entry({c.seed: c.scores[measure] for c in cells if measure in c.scores}, len(cells), sum(bool(c.error) for c in cells))

    def seconds(self, pair: str, method: str) -> float | None:
        """Mean over seeds of the seconds a run took."""
        return fmean(known) if (known := [c.seconds for c in self.of(pair, method) if c.seconds is not None and not c.error]) else None

    def test_images(self, pair: str) -> list[str]:
        """Stems of the test images that every scored run of a pair has, sorted."""
        scored = [set(cell.images) for cell in self.cells if cell.pair == pair and cell.images]
        return sorted(set.intersection(*scored)) if scored else []

    def gap(self, pair: str, method: str, measure: str = "iou") -> float | None:
        """Share of the way from source-only to supervised that a method goes on a pair, from means over seeds; None where ``no_gap`` says why."""
        low, high, here = (self.entry(pair, name, measure).mean for name in (SOURCE_ONLY, SUPERVISED, method))
        if low is None or high is None or here is None or self.no_gap(pair, measure):
            return None
        return (here - low) / (high - low)

    def no_gap(self, pair: str, measure: str = "iou") -> str:
        """Why no share of a gap can be given on a pair, in words; "" where it can."""
        bounds = {name: self.entry(pair, name, measure).mean for name in (SOURCE_ONLY, SUPERVISED)}
        if missing := [name for name, mean in bounds.items() if mean is None]:
            return f"{' and '.join(missing)} {'have' if len(missing) > 1 else 'has'} no score there"
        if (width := self.width(pair, measure)) is not None and width < SMALLEST_GAP:
            return f"{SUPERVISED} is not at least {SMALLEST_GAP} IoU above {SOURCE_ONLY}"
        return ""

    def width(self, pair: str, measure: str = "iou") -> float | None:
        """What supervised scores on a pair less what source-only does, of the means over seeds; None without either."""
        low, high = (self.entry(pair, name, measure).mean for name in (SOURCE_ONLY, SUPERVISED))
        # Rounded, because 0.52 - 0.50 is a little below 0.02 in binary.
        return None if low is None or high is None else round(high - low, 9)

    def large_gaps(self, method: str, measure: str = "iou") -> dict[str, float]:
        """Pair -> share of the gap that a method closes there, of the pairs on which that gap is at least ``LARGE_GAP``."""
        gaps = {pair: self.gap(pair, method, measure) for pair in self.pairs if (self.width(pair, measure) or 0) >= LARGE_GAP}
        return {pair: gap for pair, gap in gaps.items() if gap is not None}

    def colour(self, method: str) -> int:
        """Number of a method's colour in the style sheet; grey for what learns nothing."""
        if not learns(method):
            return GREY
        place = [name for name in self.methods if learns(name)].index(method) % (COLOURS - 1)
        return place + (place >= GREY)


def learns(method: str) -> bool:
    """Whether a method is trained at all; ``method`` as people write it."""
    return base(method) != CLASSICAL


def base(method: str) -> str:
    """The name of a method written with labels and options."""
    return method.split(":")[0].split("@")[0]


def read_grid(folder: Path) -> Grid:
    """Read ``cells.csv`` and the run folders that it names.

    A run folder that is missing or damaged leaves its row's scores standing, without images.

    Raises:
        InputError: ``cells.csv`` cannot be read, holds no row with a method and a pair, a score that is none, or a run twice.
    """
    path = Path(folder) / "cells.csv"
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as handle:
            rows = read_cells(handle)
    except (OSError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a table ({error}); run the comparison again.") from error
    cells = [_cell(path, row) for row in rows if row.get("pair") and row.get("method")]
    if not cells:
        raise InputError(f"{path} holds no row with a pair and a method; run the comparison again.")
    (key, count), *_ = Counter((cell.pair, cell.method, cell.seed) for cell in cells).most_common(1)
    if count > 1:
        raise InputError(f"{path} names {key[1]} on {key[0]} with seed {key[2]} {count} times; leave one of these rows.")
    return Grid(Path(folder), cells)


def _cell(path: Path, row: dict[str, Any]) -> Cell:
    folder, pair, method, seed = path.parent, row["pair"], row["method"], row.get("seed") or "0"
    error = (row.get("error") or "").strip()
    candidates = [Path(row.get("run") or "."), Path(pair, method, f"seed{seed}")]
    # Never another folder's run, whatever the table says or a symbolic link does.
    below = [folder / at for at in candidates if at.parts and not at.is_absolute() and ".." not in at.parts]
    place = next((at for at in below if at.resolve().is_relative_to(folder.resolve()) and (at / "run.json").is_file()), None)
    try:
        run = read_run(place) if place else None
    except InputError:
        run = None
    page = place / "report.html" if place else None
    # The leading ./ keeps a folder named like a URL scheme from becoming one.
    link = "./" + quote(Path(os.path.relpath(page.resolve(), folder.resolve())).as_posix()) if page and page.is_file() else ""
    scores: dict[str, float] = {}
    for metric in METRICS if not error else ():
        text = row.get(metric) or "nan"  # as a run without annotated test images leaves it
        value = number(text)
        if text != "nan" and (value is None or not 0 <= value <= 1):
            raise InputError(f"{path}: the {metric} of {method} on {pair} with seed {seed} is {text!r}; it must be a number from 0 to 1, or empty.")
        scores |= {metric: value} if value is not None else {}
    return Cell(pair, method, seed, scores, number(row.get("seconds")), run, link, error)
