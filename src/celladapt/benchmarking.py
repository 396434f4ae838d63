"""Methods x domain pairs x seeds, on one split and one budget, in one run that can be killed and resumed."""

import csv
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from celladapt import methods as known
from celladapt import parallel
from celladapt.adaptation import carry_out, prepare
from celladapt.config import Config, MethodSpec, preset_options, with_options
from celladapt.errors import InputError
from celladapt.evaluation import MEASURES
from celladapt.files import write_json, write_text
from celladapt.progress import say
from celladapt.reporting import report
from celladapt.run import Run


@dataclass(frozen=True)
class Cell:
    """One finished run of the grid."""

    pair: str
    method: str
    seed: int
    run: Run


@dataclass(frozen=True)
class Benchmark:
    """The grid's folder and its finished cells."""

    path: Path
    cells: list[Cell]

    def results(self) -> dict[str, dict[str, dict[str, float]]]:
        """Pair -> method -> mean over seeds of each measure and of the seconds."""
        return {pair: {m: self._mean(self._of(pair, m)) for m in self._methods()} for pair in self._pairs()}

    def table(self) -> Table:
        """Target test scores: mean over images, then mean ± sample standard deviation over seeds."""
        seeds = len({cell.seed for cell in self.cells})
        images = {pair: len(self._of(pair, self._methods()[0])[0].run.splits[1].test) for pair in self._pairs()}
        config = self.cells[0].run.config
        title = f"Target test images, mean ± sd over {seeds} seed{'s' * (seeds > 1)}; {config.steps} steps, width {config.width}, split seed {config.split_seed}"
        table = Table("pair (test images)", "method", *MEASURES, "seconds", title=title, title_justify="left")
        for pair in self._pairs():
            for method in self._methods():
                cells = self._of(pair, method)
                row = [_spread([cell.run.metrics.get(name, float("nan")) for cell in cells]) for name in MEASURES]
                table.add_row(f"{pair} ({images[pair]})", method, *row, f"{statistics.mean(c.run.record['seconds'] for c in cells):.0f}")
            table.add_section()
        return table

    def write(self) -> None:
        """``cells.csv`` (one row a run) and ``report.html``."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["pair", "method", "seed", *MEASURES, "seconds", "run"])
        for c in self.cells:
            scores = [c.run.metrics.get(name, "") for name in MEASURES]
            writer.writerow([c.pair, c.method, c.seed, *scores, c.run.record["seconds"], c.run.path.relative_to(self.path).as_posix()])
        write_text(self.path / "cells.csv", text.getvalue())
        report(self.path)

    def _pairs(self) -> list[str]:
        return list(dict.fromkeys(cell.pair for cell in self.cells))

    def _methods(self) -> list[str]:
        return list(dict.fromkeys(cell.method for cell in self.cells))

    def _of(self, pair: str, method: str) -> list[Cell]:
        return [cell for cell in self.cells if (cell.pair, cell.method) == (pair, method)]

    @staticmethod
    def _mean(cells: list[Cell]) -> dict[str, float]:
        scores = {name: statistics.mean(cell.run.metrics[name] for cell in cells) for name in MEASURES if all(name in c.run.metrics for c in cells)}
        return {**scores, "seconds": statistics.mean(cell.run.record["seconds"] for cell in cells)}


def scores_table(run: Run) -> Table:
    """Mean over target test images of a run, beside its source-only baseline where it has one."""
    table = Table("method", *MEASURES, title=f"{len(run.splits[1].test)} annotated target test images, mean over images", title_justify="left")
    for one in (run.baseline, run):
        if (one.path / "config.toml").exists() and one.metrics:
            table.add_row(one.config.method, *(f"{one.metrics[name]:.3f}" for name in MEASURES))
    return table


def _spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")


def benchmark(
    pairs: Sequence[tuple[str | Path, str | Path]], methods: Sequence[str], out: str | Path, seeds: int = 3, preset: str = "fast", **options: Any
) -> Benchmark:
    """Train and evaluate every method on every (source, target) pair with every seed, all on the same split and budget.

    Cells that ``out`` holds already are not run again and one that was cut off is resumed, so a killed benchmark is continued by the same call.

    Args:
        pairs: folders of source and target.
        methods: as ``adapt`` takes them.
        out: folder to make or to continue.
        seeds: how many, 0 ... seeds - 1.
        preset: as ``adapt`` takes it.
        options: fields of ``Config``, the same for every cell.

    Raises:
        InputError: folders or options are at fault, or ``out`` holds a cell with other options.
    """
    if seeds < 1:
        raise InputError(f"--seeds is {seeds}; it must be 1 or more.")
    parallel.start()
    out = Path(out)
    plan = []
    for source, target in pairs:
        pair = f"{Path(source).name} → {Path(target).name}"
        for method in methods:
            known.build(MethodSpec.parse(method), 1)  # a typo in the last method shows before the first is trained
            for seed in range(seeds):
                values = {**preset_options(preset), **options, "source": Path(source).absolute(), "target": Path(target).absolute()}
                config = with_options(Config(), {**values, "method": method, "seed": seed, "baseline": False})
                folder = out / f"{Path(source).name}-to-{Path(target).name}" / method.replace(":", "_").replace("%", "pct") / f"seed{seed}"
                plan.append((pair, config, folder))
    cells = []
    for number, (pair, config, folder) in enumerate(plan, 1):
        run = Run(folder)
        begun = (folder / "config.toml").exists()
        parallel.wait()  # before another process begins it
        if begun:
            if run.config != config:
                raise InputError(f"{folder} was run with other options; choose another --out, or the options in its config.toml.")
        else:
            run = prepare(config, folder)
        if not run.finished:
            say(f"[{number}/{len(plan)}] {pair}: {config.method}, seed {config.seed}")
            carry_out(run)
        cells.append(Cell(pair, config.method, config.seed, run))
        done = Benchmark(out, cells)
        if parallel.rank() == 0:
            done.write()
    if parallel.rank() == 0:
        write_json(out / "results.json", done.results())
    return done
