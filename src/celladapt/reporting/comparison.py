"""The page that sets methods side by side, from a benchmark folder."""

from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from celladapt.reporting.charts import PAGE, labels_figure, methods_figure, page_svg
from celladapt.reporting.claims import claims_table
from celladapt.reporting.conditions import NAMED, across, cautions, facts, failures, machine, no_gaps, spread
from celladapt.reporting.differences import Comparison, Comparisons
from celladapt.reporting.figures import Line, curve, overlay, read_picture, window
from celladapt.reporting.grid import Cell, Grid
from celladapt.reporting.paired import UNCORRECTED
from celladapt.reporting.reading import SOURCE_ONLY, Run
from celladapt.reporting.rendering import METRICS, PAGE_BYTES, method_name, render
from celladapt.reporting.run import Panel
from celladapt.reporting.tables import PAPER, by_pair, entry_text, gap_text

IMAGES = 3  # per pair


@dataclass(frozen=True)
class Shown:
    """A method on a pair by one measure, as the page shows it: ``text`` is that of the other tables, ``seeds`` the runs behind it."""

    text: str
    seeds: list[Cell]
    values: list[float]
    mean: float | None
    sd: float | None
    gain: float | None
    """Of the means over seeds, on source-only."""
    best: bool
    """Of the methods that saw no target label."""


def comparison_page(grid: Grid, comparisons: Comparisons) -> str:
    """The HTML of a benchmark."""
    labels = labels_figure(grid, PAGE)
    measures = [measure for measure in METRICS if any(measure in cell.scores for cell in grid.cells)]
    images = PAGE_BYTES // len(grid.pairs)
    return render(
        "comparison.html.j2",
        grid=grid,
        name=grid.folder.resolve().name,
        facts=facts(grid),
        machine=machine(grid),
        cautions=cautions(grid) + failures(grid),
        spread=spread(grid),
        across=across(grid, method_name),
        no_gaps=no_gaps(grid),
        overview=by_pair(grid, method_name) if len(grid.pairs) > NAMED else None,
        paper=[measure for measure in PAPER if measure in measures],
        measures=measures,
        shown={(measure, *key): entry for measure in measures for key, entry in _shown(grid, measure).items()},
        gaps={(method, pair): gap_text(grid, pair, method) for method in grid.methods for pair in grid.pairs},
        methods_svg=page_svg(methods_figure(grid, PAGE), "IoU of every method on every pair, seed by seed") if "iou" in measures else "",
        labels_svg=page_svg(labels, "IoU over the number of target labels") if labels else "",
        uncorrected=UNCORRECTED,
        claims=claims_table(grid, comparisons),
        differences={pair: [_sentence(one) for one in comparisons.with_source_only(grid, pair)] for pair in grid.pairs},
        sections=[
            {
                "pair": pair,
                "matrix": _matrix(grid, comparisons, pair),
                "images": _gallery([cell for cell in grid.cells if cell.pair == pair], images),
                "curves": _curves(grid, pair),
            }
            for pair in grid.pairs
        ],
    )


def _shown(grid: Grid, measure: str) -> dict[tuple[str, str], Shown]:
    """{(method, pair): what is shown}, of all that were run."""
    result = {}
    for pair in grid.pairs:
        entries = {method: grid.entry(pair, method, measure) for method in grid.methods if grid.of(pair, method)}
        rivals = [entry.mean for method, entry in entries.items() if method not in grid.labelled and entry.mean is not None]
        reference = entries[SOURCE_ONLY].mean if SOURCE_ONLY in entries else None
        for method, entry in entries.items():
            gain = entry.mean - reference if method != SOURCE_ONLY and reference is not None and entry.mean is not None else None
            result[method, pair] = Shown(
                text=entry_text(grid, entry, method),
                seeds=grid.of(pair, method),
                values=list(entry.values.values()),
                mean=entry.mean,
                sd=entry.sd,
                gain=gain,
                best=method not in grid.labelled and len(rivals) > 1 and entry.mean == max(rivals),
            )
    return result


def _sentence(one: Comparison) -> dict[str, Any]:
    """Without its full stop."""
    return {"method": one.a, "text": one.in_words(method_name), "significant": one.firm}


def _matrix(grid: Grid, comparisons: Comparisons, pair: str) -> list[tuple[str, list[Comparison | None]]]:
    """(method of the row, its IoU less that of each column's method); empty where no two methods can be compared."""
    methods = [method for method in grid.methods if any(pair == one.pair and method in (one.a, one.b) for one in comparisons.every)]
    return [(row, [comparisons.find(pair, "iou", row, column) for column in methods]) for row in methods]


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


def _curves(grid: Grid, pair: str) -> list[dict[str, Any]]:
    """One panel per validation score: each method's mean over seeds at the steps that all its seeds share, the seeds faint behind it."""
    names = list(dict.fromkeys(name for cell in grid.cells if cell.pair == pair and cell.run for name in cell.run.validation))
    result = []
    for name in names:
        lines: list[Line] = []
        shown = []
        for method in grid.methods:
            seeds = [cell.run.validation[name] for cell in grid.of(pair, method) if cell.run and name in cell.run.validation]
            if not seeds:
                continue
            shown.append(method)
            colour = grid.colour(method)
            steps = sorted(set.intersection(*(set(x.tolist()) for x, _ in seeds)))
            mean = np.array([fmean(float(y[x == step][0]) for x, y in seeds) for step in steps])
            lines += [Line(x, y, colour, faint=True) for x, y in seeds if len(seeds) > 1]
            lines.append(Line(np.array(steps), mean, colour))
        result.append({"name": name, "methods": shown, "svg": curve(lines, label=f"{name} over training steps, by method")})
    return result
