"""Every pair of a benchmark at a glance: a map of IoU, a row for each source and a column for each target, before and after adapting.

    celladapt benchmark --methods source_only,weakuda,supervised ... --out GRID
    python -m benchmarks.matrix GRID --into docs/earlier.md

Below them a row of what the classical segmentation has on each target, and one of full supervision, neither of which reads a source, by any pair that has it. The picture goes into the folder ``results``
beside the document, and the place that the benchmark folder's name marks, ``<!-- begin NAME-matrix -->``, shows it.
"""

import argparse
import statistics
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from benchmarks.documents import put
from benchmarks.selection import ADAPTED, BAR, BOUND
from celladapt.benchmarking import CLASSICAL
from celladapt.files import atomic
from celladapt.reporting.charts import PAPER, WIDTH
from celladapt.reporting.grid import Grid, read_grid

PANELS = {BAR: "source-only", ADAPTED: "WeakUDA"}
BELOW = {CLASSICAL: "classical", BOUND: "supervised"}


def scores(grid: Grid, methods: tuple[str, ...]) -> dict[tuple[str, str, str], float]:
    """(method, source, target) -> mean IoU over seeds, of the pairs that have it."""
    found = {}
    for pair in grid.pairs:
        for method in methods:
            mean = grid.entry(pair, method, "iou").mean
            if mean is not None:
                found[method, *pair.split(" → ")] = mean
    return found


def draw(grid: Grid, path: Path) -> str:
    """Draw the map to ``path``; what is to be said below it."""
    known = scores(grid, (*PANELS, *BELOW))
    pairs = [(source, target) for method, source, target in known if method == ADAPTED]
    # Those of one or two pairs, such as two that are crossed with each other alone, would be rows and columns of nothing.
    domains = [name for name in dict.fromkeys(name for pair in pairs for name in pair) if sum(name in pair for pair in pairs) > 2]
    rows = [*domains, *BELOW.values()]
    with matplotlib.rc_context({"font.size": 7.5, "text.color": PAPER.ink, "axes.labelcolor": PAPER.ink}):
        figure = Figure(figsize=(WIDTH, 0.3 * len(rows) + 1.5), layout="constrained")
        for axes, (method, title) in zip(figure.subplots(1, len(PANELS), sharey=True), PANELS.items(), strict=True):
            above = [[known.get((method, source, target), np.nan) for target in domains] for source in domains]
            below = [[_of_target(known, name, target) for target in domains] for name in BELOW]
            values = np.array([*above, *below])
            axes.imshow(values, cmap="viridis", vmin=0, vmax=1, aspect="auto")
            for (y, x), value in np.ndenumerate(values):
                if not np.isnan(value):
                    axes.text(x, y, f"{value:.2f}", ha="center", va="center", color="white" if value < 0.6 else "black")
            axes.axhline(len(domains) - 0.5, color="white", linewidth=3)
            axes.set(title=title, xlabel="target", xticks=range(len(domains)), yticks=range(len(rows)))
            axes.set_xticklabels(domains, rotation=45, ha="right", rotation_mode="anchor")
            axes.set_yticklabels(rows)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
        with atomic(path) as temporary:
            figure.savefig(temporary, format="png", dpi=160)
    crossed = [pair for pair in pairs if set(pair) <= set(domains)]
    gains = [known[ADAPTED, *pair] - known[BAR, *pair] for pair in crossed if (BAR, *pair) in known]
    return (
        f"IoU, mean over test images and seeds; a row for each source, a column for each target, {len(gains)} pairs. {PANELS[ADAPTED]} is above {PANELS[BAR]} by more than 0.01 on {sum(gain > 0.01 for gain in gains)} of them, "
        f"below by more than 0.01 on {sum(gain < -0.01 for gain in gains)}; the mean difference is {statistics.mean(gains or [0]):+.3f}, the least {min(gains, default=0):+.3f}."
    )


def _of_target(known: dict[tuple[str, str, str], float], method: str, target: str) -> float:
    """Of what does not read a source: by whichever pair has it."""
    return next((iou for (name, _, to), iou in known.items() if (name, to) == (method, target)), np.nan)


def main() -> None:
    """Draw the map into a document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", type=Path)
    parser.add_argument("--into", type=Path, required=True)
    a = parser.parse_args()
    name = f"{a.grid.name}-matrix"
    picture = a.into.parent / a.into.stem / f"{name}.png"
    words = draw(read_grid(a.grid), picture)
    put(a.into, name, f"![IoU of every pair, before and after adapting]({a.into.stem}/{picture.name})\n\n{words}\n")


if __name__ == "__main__":
    main()
