"""The two figures of a benchmark: all methods by pair, and target labels against IoU. On paper and on the page they differ in their colours only."""

import math
import textwrap
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from celladapt.files import atomic
from celladapt.reporting.conditions import NAMED
from celladapt.reporting.figures import INK, LINE, inline
from celladapt.reporting.grid import SUPERVISED, Entry, Grid, learns
from celladapt.reporting.reading import SOURCE_ONLY, number
from celladapt.reporting.rendering import method_name

UNSUPERVISED, SEMI_SUPERVISED = "cellseguda", "cellsegssda"  # the curve's point without labels, and its others
WIDTH = 7.0  # inches, the text width of a page
ABREAST = 3  # panels
SMALLEST_SPAN = 0.08  # IoU; a narrower axis would make noise look like a difference
STEPS = [1, 2, 5, 10]  # of axes

_SMALL = 7.5  # points


@dataclass(frozen=True)
class Palette:
    """Colours of text and of the numbered methods."""

    ink: str
    lines: tuple[str, ...]


# Dark enough on white, and told apart with any colour vision, as the page's light colours are.
PAPER = Palette(
    "#1b2430", ("#0072b2", "#d55e00", "#009e73", "#b0578d", "#a87900", "#3fa0db", "#59636e", "#7a3fb0", "#5b7f00", "#c2185b", "#00788a", "#8c5a3c")
)
PAGE = Palette(INK, tuple(LINE.format(index) for index in range(len(PAPER.lines))))


@dataclass(frozen=True)
class Point:
    """One budget of target labels on a pair: its place on the axis, what is written there, and the scores."""

    x: float
    text: str
    entry: Entry


@dataclass(frozen=True)
class Curve:
    """Points of one pair, ascending, and what their axis counts."""

    axis: str
    points: list[Point]

    @property
    def ticks(self) -> list[Point]:
        """The points whose text has room beside that of the point before."""
        kept = self.points[:1]
        kept += [point for before, point in pairwise(self.points) if point.x - before.x > 0.08 * (self.points[-1].x - self.points[0].x)]
        return kept


def methods_figure(grid: Grid, palette: Palette) -> Figure:
    """IoU of every method, a panel for each pair: a mark for each seed, a bar at their mean, and what learns nothing as a dashed line. Many pairs share one panel."""
    if len(grid.pairs) > NAMED:
        return _pairs_figure(grid, palette)
    names = [method for method in grid.methods if learns(method)] or grid.methods
    floors = [method for method in grid.unlearned if method not in names]
    figure, panels = _panels(grid.pairs, 0.95 + 0.27 * len(names), palette)
    for index, (pair, axes) in enumerate(panels):
        drawn: list[float] = []
        for row, method in enumerate(names):
            entry = grid.entry(pair, method, "iou")
            if entry.mean is not None:
                values = list(entry.values.values())
                axes.plot([entry.mean] * 2, [row - 0.33, row + 0.33], color=palette.ink, lw=1.5, zorder=3)
                axes.scatter(
                    values,
                    [row] * len(values),
                    s=24,
                    marker=_mark(grid, method),
                    color=palette.lines[grid.colour(method)],
                    alpha=0.8,
                    linewidths=0,
                    zorder=4,
                )
                drawn += values
        for floor in floors:
            if (mean := grid.entry(pair, floor, "iou").mean) is not None:
                axes.axvline(mean, color=palette.ink, lw=1.2, dashes=(4, 2.5))
                drawn.append(mean)
        low, high = _limits(drawn)
        axes.set_xlim(low, high)
        for row, method in enumerate(names):
            entry = grid.entry(pair, method, "iou")
            if entry.failed:
                right = entry.mean is not None and entry.mean < (low + high) / 2  # where there is room
                place: dict[str, Any] = {"x": 0.98, "ha": "right"} if right else {"x": 0.02, "ha": "left"}
                words = f"failed ({entry.failed} of {entry.runs})"
                axes.text(y=row, s=words, transform=axes.get_yaxis_transform(), va="center", fontsize=6.5, color=palette.ink, **place)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=STEPS))
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_yticks(range(len(names)))
        first = index % ABREAST == 0
        axes.set_yticklabels([_wrapped(method_name(method), 26) if first else "" for method in names], parse_math=False)
        axes.set_xlabel("IoU", color=palette.ink)
        axes.grid(True, axis="x", color=palette.ink, alpha=0.12, lw=0.7)
    keys = ["mark: one seed" + ("; square: its method used target labels" if grid.labelled else ""), "bar: mean over seeds"]
    keys += [f"dashed: {', '.join(map(method_name, floors))}, learns nothing"] if floors else []
    figure.supxlabel("; ".join(keys), fontsize=_SMALL, color=palette.ink, parse_math=False)
    return figure


def _pairs_figure(grid: Grid, palette: Palette) -> Figure:
    """A row for each pair: a line from source-only to supervised, each method's mean on it, its seeds small and faint, and what learns nothing as an upright dash."""
    figure, ((_, axes),) = _panels([""], 0.8 + 0.24 * len(grid.pairs), palette)
    for row, pair in enumerate(grid.pairs):
        failed: list[str] = []
        bounds = [mean for name in (SOURCE_ONLY, SUPERVISED) if (mean := grid.entry(pair, name, "iou").mean) is not None]
        axes.plot(bounds, [row] * len(bounds), color=palette.ink, alpha=0.25, lw=2.5, solid_capstyle="round", zorder=2)
        for method in grid.methods:
            entry = grid.entry(pair, method, "iou")
            failed += [f"{method_name(method)} failed ({entry.failed} of {entry.runs})"] * bool(entry.failed)
            if entry.mean is None:
                continue
            if not learns(method):
                axes.plot([entry.mean] * 2, [row - 0.33, row + 0.33], color=palette.ink, lw=1.2, zorder=3)
                continue
            colour, mark = palette.lines[grid.colour(method)], _mark(grid, method)
            values = list(entry.values.values())
            axes.scatter(values, [row] * len(values), s=7, marker=mark, color=colour, alpha=0.35, linewidths=0, zorder=4)
            axes.scatter(entry.mean, row, s=30, marker=mark, color=colour, alpha=0.9, linewidths=0, zorder=5)
        axes.text(0.01, row + 0.42, "; ".join(failed), transform=axes.get_yaxis_transform(), fontsize=5, color=palette.ink, parse_math=False)
    axes.set_ylim(len(grid.pairs) - 0.4, -0.6)
    axes.set_yticks(range(len(grid.pairs)), [_wrapped(pair, 40) for pair in grid.pairs], parse_math=False)
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=STEPS))
    axes.set_xlabel("IoU", color=palette.ink)
    axes.grid(True, axis="x", color=palette.ink, alpha=0.12, lw=0.7)
    shown = [
        Line2D([], [], ls="", marker=_mark(grid, method), ms=5, color=palette.lines[grid.colour(method)], label=method_name(method))
        if learns(method)
        else Line2D([], [], ls="", marker="|", ms=9, color=palette.ink, label=f"{method_name(method)} (learns nothing)")
        for method in grid.methods
    ]
    keys = f"large: mean over seeds; small: one seed{'; square: its method used target labels' * bool(grid.labelled)}; line: from source only to supervised"
    legend = figure.legend(
        handles=shown,
        loc="outside lower center",
        ncols=max(1, min(4, 110 // (6 + max(len(str(line.get_label())) for line in shown)))),
        frameon=False,
        fontsize=_SMALL,
        labelcolor=palette.ink,
        title=keys,
        title_fontsize=_SMALL,
    )
    legend.get_title().set_color(palette.ink)
    return figure


def _mark(grid: Grid, method: str) -> str:
    return "s" if method in grid.labelled else "o"


def labels_figure(grid: Grid, palette: Palette) -> Figure | None:
    """IoU over the target labels that CellSegSSDA was given, a panel for each pair; None where no pair has two budgets of labels or more.

    Without labels it is CellSegUDA. Supervised, with all labels, is a line with a band of one standard deviation.
    """
    found = {pair: label_curve(grid, pair) for pair in grid.pairs}
    curves = {pair: curve for pair, curve in found.items() if sum(point.x > 0 for point in curve.points) > 1}
    if not curves:
        return None
    figure, panels = _panels(list(curves), 2.6, palette)
    for pair, axes in panels:
        curve = curves[pair]
        points = curve.points
        colour, upper = palette.lines[0], palette.lines[2]
        for point in points:
            axes.scatter(
                [point.x] * len(point.entry.values), list(point.entry.values.values()), s=16, color=colour, alpha=0.6, linewidths=0, zorder=3
            )
        axes.plot(
            [p.x for p in points], [p.entry.mean or 0.0 for p in points], color=colour, lw=1.8, zorder=4, label="CellSegSSDA (no labels: CellSegUDA)"
        )
        drawn = [value for point in points for value in point.entry.values.values()]
        levels: list[tuple[str, Any, str, str]] = [(SUPERVISED, "-", upper, ", all labels"), (SOURCE_ONLY, (0, (4, 2.5)), palette.lines[1], "")]
        levels += [(method, ":", palette.ink, ", learns nothing") for method in grid.unlearned]
        for method, style, shade, what in levels:
            entry = grid.entry(pair, method, "iou")
            if entry.mean is not None:
                axes.axhline(entry.mean, color=shade, ls=style, lw=1.4, label=method_name(method) + what)
                drawn.append(entry.mean)
            if entry.mean is not None and entry.sd is not None and method == SUPERVISED:
                axes.axhspan(entry.mean - entry.sd, entry.mean + entry.sd, color=shade, alpha=0.15, linewidth=0)
                drawn += [entry.mean - entry.sd, entry.mean + entry.sd]
        axes.set_ylim(*_limits(drawn))
        axes.set_xticks([point.x for point in curve.ticks], [point.text for point in curve.ticks])
        axes.set_xlabel(curve.axis, color=palette.ink)
        axes.set_ylabel("IoU", color=palette.ink)
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
        axes.grid(True, axis="y", color=palette.ink, alpha=0.12, lw=0.7)
    # Of all panels, because one of them may lack a line that another has.
    handles = {label: handle for _, axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=4 if len(panels) > 2 else 2,
        frameon=False,
        fontsize=_SMALL,
        labelcolor=palette.ink,
    )
    return figure


def label_curve(grid: Grid, pair: str) -> Curve:
    """Scored budgets of target labels on a pair, ascending: shares in percent, or numbers of images where a budget was given as a number."""
    budgets = {UNSUPERVISED: "0%", SEMI_SUPERVISED: "100%"}
    budgets |= {method: method.partition("@")[2] for method in grid.methods if method.startswith(f"{SEMI_SUPERVISED}@") and ":" not in method}
    entries = {method: entry for method in budgets if (entry := grid.entry(pair, method, "iou")).values}
    by_number = not all(budgets[method].endswith("%") for method in entries)
    points = []
    for method, entry in entries.items():
        share = budgets[method].removesuffix("%")
        # None where no run folder says; a number of images needs none.
        images = 0 if method == UNSUPERVISED else next((n for cell in grid.of(pair, method) if cell.run and (n := cell.run.trained_masks)), None)
        x = images if by_number and budgets[method].endswith("%") else number(share)
        if x is not None:
            points.append(Point(x, f"{x:.0f}" if by_number else share if images is None else f"{share}\n({images})", entry))
    return Curve("labelled target images" if by_number else "target labels in % (images)", sorted(points, key=lambda point: point.x))


def page_svg(figure: Figure, label: str) -> Markup:
    """A figure in the ``PAGE`` palette as markup for the page."""
    return inline(figure, label, "chart")


def write_charts(grid: Grid) -> None:
    """Write ``methods.png`` and ``.svg`` into the benchmark's folder, and ``labels.png`` and ``.svg`` where there is such a curve.

    Raises:
        InputError: a file cannot be written.
    """
    for name, figure in (("methods", methods_figure(grid, PAPER)), ("labels", labels_figure(grid, PAPER))):
        for suffix in ("png", "svg"):
            path = grid.folder / f"{name}.{suffix}"
            if figure is None:
                path.unlink(missing_ok=True)  # of an earlier set of runs
            else:
                _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    # Nothing that changes from one writing to the next: no date, no random names.
    about = {"Software": None} if path.suffix == ".png" else {"Date": None, "Creator": None}
    with atomic(path) as temporary, matplotlib.rc_context({"svg.hashsalt": "celladapt"}):
        figure.savefig(temporary, dpi=220, facecolor="white", metadata=about)


def _panels(pairs: list[str], height: float, palette: Palette) -> tuple[Figure, list[tuple[str, Axes]]]:
    """A figure with a titled panel for each pair, in rows of at most three; ``height`` of a row in inches."""
    columns = min(ABREAST, len(pairs))
    rows = math.ceil(len(pairs) / columns)
    figure = Figure(figsize=(WIDTH, height * rows + 0.25), layout="constrained")
    panels = []
    for index, pair in enumerate(pairs, start=1):
        axes = figure.add_subplot(rows, columns, index)
        axes.set_title(_wrapped(pair, 24 if columns > 2 else 40), fontsize=8.5, color=palette.ink, parse_math=False)
        axes.tick_params(which="both", colors=palette.ink, length=0, labelsize=_SMALL)
        axes.xaxis.label.set_fontsize(8)
        axes.yaxis.label.set_fontsize(8)
        axes.spines[:].set_visible(False)
        axes.spines["bottom"].set(visible=True, color=palette.ink, alpha=0.4)
        panels.append((pair, axes))
    return figure, panels


def _limits(values: list[float]) -> tuple[float, float]:
    """Ends of an axis around scores, with a margin and never narrower than ``SMALLEST_SPAN``."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    margin = max(0.08 * (high - low), (SMALLEST_SPAN - (high - low)) / 2)
    return low - margin, high + margin


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width)) or text
