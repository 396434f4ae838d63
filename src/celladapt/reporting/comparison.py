"""The page that sets methods side by side, from ``cells.csv`` and the run folders it names."""

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any
from urllib.parse import quote

import numpy as np

from celladapt.errors import InputError
from celladapt.reporting.figures import Line, curve, overlay, read_picture, window
from celladapt.reporting.reading import SOURCE_ONLY, Run, number, read_run
from celladapt.reporting.rendering import METRICS, PAGE_BYTES, render
from celladapt.reporting.run import Panel

COLOURS = 8
IMAGES = 3  # per pair


@dataclass(frozen=True)
class Cell:
    """One row of ``cells.csv``: a method on a pair with one seed; ``link`` leads to its own page, "" where there is none."""

    pair: str
    method: str
    seed: str
    scores: dict[str, float]
    seconds: float | None
    run: Run | None
    link: str


@dataclass(frozen=True)
class Entry:
    """A method on a pair: mean and sample standard deviation over seeds (None for one seed), and the mean gain on source only, seed by seed."""

    values: list[float]
    mean: float
    sd: float | None
    gain: float | None
    best: bool


def comparison_page(folder: Path) -> str:
    """The HTML of a comparison folder.

    Raises:
        InputError: ``cells.csv`` holds no row with a method and a pair.
    """
    cells = _read_cells(folder)
    pairs = list(dict.fromkeys(cell.pair for cell in cells))
    methods = list(dict.fromkeys(cell.method for cell in cells))
    labelled = {cell.method for cell in cells if cell.run and cell.run.uses_target_labels}
    tables = {metric: _table(cells, metric, labelled) for metric in METRICS}
    gallery_bytes = PAGE_BYTES // len(pairs)
    return render(
        "comparison.html.j2",
        name=folder.resolve().name,
        cells=cells,
        pairs=pairs,
        methods=methods,
        seeds=len({cell.seed for cell in cells}),
        labelled=labelled,
        tables={metric: table for metric, table in tables.items() if table},
        sections=[
            {
                "pair": pair,
                "images": _gallery([cell for cell in cells if cell.pair == pair], gallery_bytes),
                "curves": _curves([cell for cell in cells if cell.pair == pair], methods),
            }
            for pair in pairs
        ],
        colour={method: index % COLOURS for index, method in enumerate(methods)},
    )


def _read_cells(folder: Path) -> list[Cell]:
    path = folder / "cells.csv"
    try:
        with path.open(encoding="utf-8", errors="replace", newline="") as handle:
            rows = list(csv.DictReader(handle))
    except (OSError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a table ({error}); run the comparison again.") from error
    cells = [_cell(folder, row) for row in rows if row.get("pair") and row.get("method")]
    if not cells:
        raise InputError(f"{path} holds no row with a pair and a method; run the comparison again.")
    return cells


def _cell(folder: Path, row: dict[str, Any]) -> Cell:
    pair, method, seed = row["pair"], row["method"], row.get("seed") or "0"
    candidates = [folder / str(row["run"])] if row.get("run") else []
    place = next((path for path in [*candidates, folder / pair / method / f"seed{seed}"] if (path / "run.json").is_file()), None)
    try:
        run = read_run(place) if place else None
    except InputError:
        run = None
    page = place / "report.html" if place else None
    # The leading ./ keeps a folder named like a URL scheme from becoming one.
    link = "./" + quote(Path(os.path.relpath(page.resolve(), folder.resolve())).as_posix()) if page and page.is_file() else ""
    scores = {metric: value for metric in METRICS if (value := number(row.get(metric))) is not None}
    return Cell(pair, method, seed, scores, number(row.get("seconds")), run, link)


def _table(cells: list[Cell], metric: str, labelled: set[str]) -> dict[tuple[str, str], Entry]:
    """{(method, pair): entry}; the best of a pair is sought among the methods that saw no target label."""
    values: dict[tuple[str, str], dict[str, float]] = {}
    for cell in cells:
        if metric in cell.scores:
            values.setdefault((cell.method, cell.pair), {})[cell.seed] = cell.scores[metric]
    means = {key: fmean(seeds.values()) for key, seeds in values.items()}
    table = {}
    for (method, pair), seeds in values.items():
        reference = values.get((SOURCE_ONLY, pair), {})
        gains = [value - reference[seed] for seed, value in seeds.items() if seed in reference] if method != SOURCE_ONLY else []
        rivals = [mean for (other, where), mean in means.items() if where == pair and other not in labelled]
        table[method, pair] = Entry(
            values=list(seeds.values()),
            mean=means[method, pair],
            sd=stdev(seeds.values()) if len(seeds) > 1 else None,
            gain=fmean(gains) if gains else None,
            best=method not in labelled and len(rivals) > 1 and means[method, pair] == max(rivals),
        )
    return table


def _gallery(cells: list[Cell], limit: int) -> list[dict[str, Any]]:
    """The same target images under each method (its first seed that has pictures), in at most ``limit`` characters."""
    runs: dict[str, Run] = {}
    for cell in cells:
        if cell.run and cell.run.examples:
            runs.setdefault(cell.method, cell.run)
    stems = sorted({path.name for run in runs.values() for path in run.examples})
    common = [stem for stem in stems if all((run.folder / "examples" / stem).is_dir() for run in runs.values())] or stems
    result: list[dict[str, Any]] = []
    size = 0
    for index in np.unique(np.linspace(0, len(common) - 1, min(IMAGES, len(common))).astype(int)) if common else []:
        row = _row(common[index], runs)
        size += sum(len(panel.uri) for panel in row["panels"])
        if result and size > limit:
            break
        if row["panels"]:
            result.append(row)
    return result


def _row(stem: str, runs: dict[str, Run]) -> dict[str, Any]:
    places = [run.folder / "examples" / stem for run in runs.values()]
    image = next((picture for place in places if (picture := read_picture(place / "image.png", colour=True)) is not None), None)
    if image is None:
        return {"stem": stem, "note": "", "panels": []}
    view = window(image.shape[0], image.shape[1])
    truths = (read_picture(place / "truth.png", colour=False) for place in places)
    truth = next((mask for mask in truths if mask is not None and mask.shape == image.shape[:2]), None)
    known = {"truth": truth} if truth is not None else {}
    panels = [Panel("Image", overlay(image, view))]
    if known:
        panels.append(Panel("Annotation", overlay(image, view, known), "truth"))
    for method, run in runs.items():
        prediction = read_picture(run.folder / "examples" / stem / "prediction.png", colour=False)
        if prediction is not None and prediction.shape == image.shape[:2]:
            iou = run.scores.images.get(stem, {}).get("iou") if run.scores else None
            panels.append(Panel(method, overlay(image, view, known | {"prediction": prediction}), "prediction", iou))
    return {"stem": stem, "note": view.note, "panels": panels}


def _curves(cells: list[Cell], methods: list[str]) -> list[dict[str, Any]]:
    """One panel per validation score: each method's mean over seeds at the steps that all its seeds share, the seeds faint behind it."""
    names = list(dict.fromkeys(name for cell in cells if cell.run for name in cell.run.validation))
    result = []
    for name in names:
        lines: list[Line] = []
        shown = []
        for index, method in enumerate(methods):
            seeds = [cell.run.validation[name] for cell in cells if cell.method == method and cell.run and name in cell.run.validation]
            if not seeds:
                continue
            shown.append(method)
            colour = index % COLOURS
            steps = sorted(set.intersection(*(set(x.tolist()) for x, _ in seeds)))
            mean = np.array([fmean(float(y[x == step][0]) for x, y in seeds) for step in steps])
            lines += [Line(x, y, colour, faint=True) for x, y in seeds if len(seeds) > 1]
            lines.append(Line(np.array(steps), mean, colour))
        result.append({"name": name, "methods": shown, "svg": curve(lines, label=f"{name} over training steps, by method")})
    return result
