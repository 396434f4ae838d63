"""How good is a pick without labels, and what does the preset `best` end with? Every kept checkpoint of a benchmark is scored on the test images, afterwards.

    celladapt benchmark ... --select last --keep-checkpoints --out GRID
    python -m benchmarks.selection GRID [GRID ...] [--elsewhere DOMAIN ...] [--into docs/results.md]

Two tables. The first has for each pair and method, averaged over seeds, the test IoU of the last checkpoint, of the best one, and of the one that each criterion
picks; below it the mean and largest regret (best less picked), and the rank correlation of criterion and IoU over all checkpoints of a pair. The second has
what `best` keeps: the pick of `infomax` among the checkpoints of weakuda, or that among source_only's where `expected` says that adapting did not help.
`expected` is fitted to the other targets alone (see ``benchmarks.quality``), so no label of a target has a part in what is picked on it.
"""

import argparse
import math
import statistics
from collections.abc import Callable
from pathlib import Path

from scipy.stats import spearmanr

from benchmarks.documents import put
from benchmarks.quality import Point, elsewhere, left_out, points

CRITERIA = ("expected", "agreement", "contrast", "solidity", "zoom", "infomax", "snd", "entropy", "consistency")
ADAPTED, BAR, BOUND = "weakuda", "source_only", "supervised"
SMALLEST_GAP = 0.05
"""Pairs whose gap is smaller have too little to close."""

Runs = dict[tuple[str, str], dict[str, list[Point]]]
"""(pair, method) -> seed -> checkpoints in order."""


def with_expected(known: list[Point], more: list[Point] | None = None) -> Runs:
    """The checkpoints by run, each with the IoU that a fit to other targets, and ``more`` of them, expects of it."""
    runs: Runs = {}
    for point, expected in zip(known, left_out([*known, *(more or [])]), strict=False):
        point.scores["expected"] = float(expected)
        runs.setdefault((point.pair, point.method), {}).setdefault(point.seed, []).append(point)
    return runs


def picked(run: list[Point], criterion: str) -> Point:
    """The checkpoint that ``criterion`` keeps; "last" and "best" are what their names say."""
    score: dict[str, Callable[[Point], float]] = {"last": lambda point: point.step, "best": lambda point: point.iou}
    return max(run, key=score.get(criterion, lambda point: point.scores[criterion]))


def regrets(runs: Runs) -> str:
    """The first table, as Markdown."""
    names = ["last", "best", *CRITERIA]
    lines = ["| pair | method | " + " | ".join(names) + " |", "|---|---|" + "--:|" * len(names)]
    for (pair, method), seeds in runs.items():
        cells = (statistics.mean(picked(run, name).iou for run in seeds.values()) for name in names)
        lines.append(f"| {pair} | {method} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")
    everything = [run for seeds in runs.values() for run in seeds.values()]
    for word, of in (("mean", statistics.mean), ("largest", max)):
        losses = (of([picked(run, "best").iou - picked(run, name).iou for run in everything]) for name in names)
        lines.append(f"| **{word} regret** ({len(everything)} runs) | | " + " | ".join(f"{loss:.3f}" for loss in losses) + " |")
    by_pair: dict[str, list[Point]] = {}
    for (pair, _), seeds in runs.items():
        by_pair.setdefault(pair, []).extend(point for run in seeds.values() for point in run)
    ranks = []
    for name in names:
        found = [_rank(some, name) for some in by_pair.values()] if name in CRITERIA else []
        ranks.append(f"{statistics.mean(found):.2f}" if found else "")
    lines.append("| **rank correlation**, mean over pairs | | " + " | ".join(ranks) + " |")
    return "\n".join(lines) + "\n"


def kept(runs: Runs) -> str:
    """The second table, as Markdown."""
    lines = [f"| pair | {BAR} | {ADAPTED} | `best` keeps | fell back | {BOUND} | gap | closed |", "|---|--:|--:|--:|--:|--:|--:|--:|"]
    shares = []
    for pair in dict.fromkeys(pair for pair, _ in runs):
        if not all((pair, method) in runs for method in (BAR, ADAPTED, BOUND)):
            continue
        before, after, bound = ([picked(run, "infomax") for run in runs[pair, method].values()] for method in (BAR, ADAPTED, BOUND))
        ends = [max(pick, key=lambda point: point.scores["expected"]) for pick in zip(after, before, strict=True)]
        iou = [[point.iou for point in some] for some in (before, after, ends, bound)]
        gap = statistics.mean(iou[3]) - statistics.mean(iou[0])
        closed = (statistics.mean(iou[2]) - statistics.mean(iou[0])) / gap if gap >= SMALLEST_GAP else math.nan
        shares += [] if math.isnan(closed) else [closed]
        low, adapted, best, high = (f"{statistics.mean(some):.3f} ± {statistics.stdev(some) if len(some) > 1 else 0:.3f}" for some in iou)
        fell = f"{sum(point.method == BAR for point in ends)} of {len(ends)}"
        lines.append(f"| {pair} | {low} | {adapted} | {best} | {fell} | {high} | {gap:.3f} | {'' if math.isnan(closed) else f'{closed:.0%}'} |")
    mean = f"{statistics.mean(shares):.0%}" if shares else ""
    return "\n".join([*lines, f"| **mean** over pairs with a gap of {SMALLEST_GAP} or more | | | | | | | {mean} |"]) + "\n"


def _rank(some: list[Point], name: str) -> float:
    found = float(spearmanr([point.scores[name] for point in some], [point.iou for point in some]).statistic)
    return 0.0 if math.isnan(found) else found


def main() -> None:
    """Print both tables, or put them into a document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grids", type=Path, nargs="+")
    parser.add_argument("--into", type=Path, help="Markdown file with parts <!-- begin selection --> and <!-- begin kept -->")
    parser.add_argument("--elsewhere", type=Path, nargs="+", default=[], metavar="DOMAIN", help="as benchmarks.quality takes it")
    a = parser.parse_args()
    runs = with_expected(points(a.grids), elsewhere(a.grids, a.elsewhere))
    for part, text in (("selection", regrets(runs)), ("kept", kept(runs))):
        if a.into:
            put(a.into, part, text)
        else:
            print(text)


if __name__ == "__main__":
    main()
