"""Methods x domain pairs x seeds, on one split and one budget, in one run that can be killed and resumed."""

import csv
import io
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from celladapt import methods as known
from celladapt import parallel
from celladapt.adaptation import baseline_of, begin, checked, make_splits
from celladapt.cells import as_cell, read_cells
from celladapt.classical import classical_mask
from celladapt.conclusion import conclude
from celladapt.config import Config, MethodSpec, preset_options, with_options
from celladapt.data.folder import Folder
from celladapt.data.limits import at_most
from celladapt.data.split import Split, group_pattern
from celladapt.errors import InputError
from celladapt.evaluation import MEASURES
from celladapt.files import staged, write_text
from celladapt.locks import alone
from celladapt.losses import Domain
from celladapt.model import Prediction
from celladapt.progress import say
from celladapt.records import read_text
from celladapt.reporting import report
from celladapt.reporting.grid import Grid, read_grid
from celladapt.reporting.tables import terminal_table
from celladapt.run import Run
from celladapt.side_by_side import Failure, carry_out_all, sensible_jobs

CLASSICAL = "classical"


@dataclass
class Cell:
    """One run of the grid."""

    pair: str
    method: str
    seed: int
    config: Config
    run: Run
    failure: Failure | None = None

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.pair}, {self.method}, seed {self.seed}"

    @property
    def begun(self) -> bool:
        """Whether its run folder is there."""
        return (self.run.path / "config.toml").exists()


@dataclass(frozen=True)
class Benchmark:
    """The grid's folder and its cells."""

    path: Path
    cells: list[Cell]

    @property
    def failures(self) -> dict[str, Failure]:
        """Name of each run that did not finish -> why."""
        return {cell.name: cell.failure for cell in self.cells if cell.failure is not None}

    def results(self) -> dict[str, dict[str, dict[str, float]]]:
        """Pair -> method -> mean over the finished seeds of each measure and of the seconds."""
        grid = read_grid(self.path)
        return {pair: {method: scores for method in grid.methods if (scores := _means(grid, pair, method))} for pair in grid.pairs}

    def table(self) -> Table:
        """Scores on the target's test images by pair and method, mean ± standard deviation over seeds, and the share of the gap that each method closes."""
        return terminal_table(read_grid(self.path))

    def write(self) -> None:
        """``cells.csv``: one row for each run that has ended, one way or the other; runs of earlier calls that are not in this one stay in it."""
        file = self.path / "cells.csv"
        rows: list[dict[str, Any]] = []
        for cell in self.cells:
            if cell.run.finished or cell.failure:
                finished = cell.run.finished
                scores = {name: cell.run.metrics.get(name, "") if finished else "" for name in MEASURES}
                about = {"pair": cell.pair, "method": cell.method, "seed": cell.seed, "seconds": cell.run.record["seconds"] if finished else ""}
                rows.append({**about, **scores, "run": self._place(cell), "error": cell.failure.sentence if cell.failure else ""})
        here = {self._place(cell) for cell in self.cells}
        earlier = earlier_cells(file)
        text = io.StringIO()
        writer = csv.DictWriter(text, ["pair", "method", "seed", *MEASURES, "seconds", "run", "error"], extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        kept = (row for row in earlier if row.get("run") not in here)
        writer.writerows({key: as_cell(value) for key, value in row.items()} for row in [*rows, *kept])
        write_text(file, text.getvalue())

    def _place(self, cell: Cell) -> str:
        return cell.run.path.relative_to(self.path).as_posix()


def earlier_cells(file: Path) -> list[dict[str, str]]:
    """The rows that ``cells.csv`` has already.

    Raises:
        InputError: another program has saved it in a form in which they cannot be told.
    """
    if not file.exists():
        return []
    cure = "another program may have saved it; delete it, and it is made anew of the runs that this command names"
    try:
        rows = read_cells(io.StringIO(read_text(file, cure)))
    except UnicodeDecodeError:
        raise InputError(f"{file} is not UTF-8 any more; {cure}.") from None
    except csv.Error as error:
        raise InputError(f"{file} cannot be read ({error}); {cure}.") from None
    if any(not {"pair", "method", "seed", "run"} <= row.keys() for row in rows):
        raise InputError(f"{file} has not the columns that it had; {cure}.")
    return rows


def _means(grid: Grid, pair: str, method: str) -> dict[str, float]:
    scores = {name: mean for name in MEASURES if (mean := grid.entry(pair, method, name).mean) is not None}
    seconds = grid.seconds(pair, method)
    return scores | ({} if seconds is None else {"seconds": seconds})


def scores_table(run: Run) -> Table:
    """Mean over target test images of a run, beside its source-only baseline where it has one."""
    table = Table("method", *MEASURES, title=f"{len(run.splits[1].test)} annotated target test images, mean over images", title_justify="left")
    for one in (run.baseline, run):
        if (one.path / "config.toml").exists() and one.metrics:
            kept = " (source-only kept)" if one.record.get("fell_back") else ""
            table.add_row(one.config.method + kept, *(f"{one.metrics[name]:.3f}" for name in MEASURES))
    return table


def parse_methods(text: str) -> list[str]:
    """Methods separated by commas -> one name each; ``@25%`` alone is the method before it, with its options and other labels.

    Raises:
        InputError: the first one is no method.
    """
    names: list[str] = []
    for part in map(str.strip, text.split(",")):
        if part.startswith("@") and not names:
            raise InputError(f"--methods {text}: {part} needs a method before it, such as cellsegssda{part}.")
        names.append(replace(MethodSpec.parse(names[-1]), labels=part[1:]).text if part.startswith("@") else MethodSpec.parse(part).text)
    return names


def benchmark(
    pairs: Sequence[tuple[str | Path, str | Path]],
    methods: Sequence[str],
    out: str | Path,
    seeds: int = 3,
    preset: str = "fast",
    jobs: int | None = None,
    **options: Any,
) -> Benchmark:
    """Train and evaluate every method on every (source, target) pair with every seed, all on the same split and budget.

    Beside them stands ``classical``, which learns nothing. Runs that ``out`` holds already are not run again and one that was cut off is resumed, so a killed
    benchmark is continued by the same call. A run that fails leaves the others alone; it is in ``Benchmark.failures``, and tried again by the same call.

    Args:
        pairs: folders of source and target.
        methods: as ``adapt`` takes them.
        out: folder to make or to continue.
        seeds: how many, 0 ... seeds - 1.
        preset: as ``adapt`` takes it.
        jobs: how many runs to train at a time; by default one for each GPU, or else for each CPU core and 4 GiB of memory. The last digits of a score can depend on it, as it
            decides how many threads a run has.
        options: fields of ``Config``, the same for every run.

    Raises:
        InputError: folders or options are at fault, or ``out`` holds a run with other options.
    """
    for name, number in (("seeds", seeds), ("jobs", 1 if jobs is None else jobs)):
        if number < 1:
            raise InputError(f"--{name} is {number}; it must be 1 or more.")
    if parallel.launched():
        raise InputError("Start the benchmark without a launcher; it uses every GPU by itself, a run on each.")
    out = Path(out)
    earlier_cells(out / "cells.csv")  # what cannot be gone on with shows before any work
    done = Benchmark(out, _plan(pairs, methods, out, seeds, {**preset_options(preset), "fallback": False, **options}))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be made ({error.strerror}); choose another --out.") from None
    with alone(out):
        todo = [cell for cell in done.cells if not cell.begun]
        splits = [_checked(cell) for cell in todo]  # all of them, before anything of any is written
        for cell, both in zip(todo, splits, strict=True):
            (Run.create if cell.method == CLASSICAL else begin)(cell.run.path, cell.config, *both)
        for cell in done.cells:
            if cell.method == CLASSICAL and not cell.run.finished:
                cell.failure = _classical(cell.run)
        learned = {cell.name: cell for cell in done.cells if cell.method != CLASSICAL}
        runs = {name: cell.run for name, cell in learned.items()}
        done.write()
        # Source-only first, where others fall back to it: it is then trained once.
        first = {name: run for name, run in runs.items() if not run.config.baseline}
        for wave in (first, {name: run for name, run in runs.items() if name not in first}):
            _lend_baselines(wave, first)
            for name, failure in carry_out_all(wave, jobs or sensible_jobs(runs)) if wave else ():
                learned[name].failure = failure
                if failure is not None:
                    say(f"FAILED {name}: {failure.sentence}")
                try:
                    done.write()
                except InputError as error:  # a spreadsheet may hold it; the runs know their scores
                    say(str(error))
        done.write()
        report(out)
    return done


def _plan(pairs: Sequence[tuple[str | Path, str | Path]], methods: Sequence[str], out: Path, seeds: int, options: dict[str, Any]) -> list[Cell]:
    """Every cell of the grid, checked: nothing is trained before all of it can be."""
    cells = []
    for source, target in ((Path(source).absolute(), Path(target).absolute()) for source, target in pairs):
        for method in dict.fromkeys((CLASSICAL, *methods)):
            for seed in range(1 if method == CLASSICAL else seeds):
                cell_options = {**options, "source": source, "target": target, "method": method, "seed": seed, "baseline": False}
                config = with_options(Config(), cell_options)
                if config.fallback and method != CLASSICAL and known.find(config.spec.name).reads == {Domain.SOURCE, Domain.TARGET}:
                    config = replace(config, baseline=True)  # what it falls back to
                place = f"{source.name}-to-{target.name}", method.replace(":", "_").replace("%", "pct"), f"seed{seed}"
                cell = Cell(f"{source.name} → {target.name}", method, seed, config, Run(out.joinpath(*place)))
                if method != CLASSICAL:
                    known.build(config.spec, 1)
                if cell.begun and (other := [f.name for f in fields(config) if getattr(cell.run.config, f.name) != getattr(config, f.name)]):
                    moved = " Where a folder has moved, write its new place into that file." if {"source", "target"} & set(other) else ""
                    raise InputError(
                        f"{cell.run.path} was run with other options ({', '.join(other)}); choose another --out, or what its config.toml says.{moved}"
                    )
                cells.append(cell)
    if len({cell.run.path for cell in cells}) < len(cells):  # a-to-b → c and a → b-to-c share one, too
        raise InputError("--pairs names one pair twice, or two pairs whose folders have the same names; give each folder a name of its own.")
    return cells


def _lend_baselines(borrowers: Mapping[str, Run], lenders: Mapping[str, Run]) -> None:
    """Give each run that needs a source-only baseline a copy of the finished run that is just that, if there is one."""
    finished = [run for run in lenders.values() if run.finished]
    for borrower in borrowers.values():
        if borrower.config.baseline and not borrower.baseline.path.exists():
            same = [run for run in finished if run.config == baseline_of(borrower.config) and run.splits == borrower.splits]
            if same:
                with staged(borrower.baseline.path) as folder:
                    shutil.copytree(same[0].path, folder, dirs_exist_ok=True)


def _checked(cell: Cell) -> tuple[Split, Split]:
    if cell.method != CLASSICAL:
        return checked(cell.config)
    assert cell.config.source
    assert cell.config.target
    return make_splits(cell.config, Folder.open(cell.config.source), Folder.open(cell.config.target))


def _classical(run: Run) -> Failure | None:
    """Apply the classical segmentation; a file that cannot be read fails this row alone."""
    assert run.config.target
    notes = ["This segmentation learns nothing and has no settings: it is the bar for methods that learn."]
    target = Folder.open(run.config.target)
    about = (classical_mask.__doc__ or "").strip()

    def segment(image: NDArray[Any]) -> Prediction:
        return Prediction(classical_mask(image).astype(np.float32))

    try:
        with at_most(run.config.max_megapixels):
            conclude(run, target, segment, None, notes, method_doc=about, seconds=0.0, group=group_pattern(target, run.config.group))
    except InputError as error:
        return Failure(str(error), ours=False)
    return None
