"""How good is a pick without labels, and what does the preset `best` end with? Every kept checkpoint of a benchmark is scored on the test images, afterwards.

    celladapt benchmark ... --select last --keep-checkpoints --out GRID
    python -m benchmarks.selection GRID [GRID ...] [--fit GRID ...] [--elsewhere DOMAIN ...] [--into docs/results.md]

Two tables. The first has for each pair and method, averaged over seeds, the test IoU of the last checkpoint, of the best one, and of the one that each criterion
picks, of the runs that kept more than one; below it the mean and largest regret (best less picked), and the rank correlation of criterion and IoU over all checkpoints of a pair. The second has
what `best` keeps: the pick of the default criterion among the checkpoints of weakuda, or that among source_only's where that is clearly preferred without masks. Both that and `expected` are fitted to the other targets alone (see ``benchmarks.quality``; ``--fit`` names more grids for it), so no label of a target has a part in what is picked
on it.
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from scipy.stats import spearmanr

from benchmarks.documents import put, spread
from benchmarks.quality import COMPARED, LEVEL, Point, blind, code_of_clues, elsewhere, finished_cells, fit, points, target_of
from celladapt.config import Config
from celladapt.data.folder import Folder
from celladapt.data.sample import evenly
from celladapt.expectation import MOST_IMAGES, clues_on, part
from celladapt.files import write_json
from celladapt.instances import to_mask
from celladapt.loading import load_model
from celladapt.methods import find
from celladapt.metrics import foreground
from celladapt.model import Model
from celladapt.progress import Bar
from celladapt.quality import estimate, falls_back
from celladapt.run import Run

CRITERIA = ("expected", "agreement", "contrast", "solidity", "zoom", "infomax", "snd", "entropy", "consistency")
ADAPTED, BAR, BOUND = "weakuda", "source_only", "supervised"
SMALLEST_GAP = 0.05
"""Pairs whose gap is smaller have too little to close."""
MOST_HARM = 0.01
"""IoU by which adapting may end below source-only before that is harm."""

Runs = dict[tuple[str, str], dict[str, list[Point]]]
"""(pair, method) -> seed -> checkpoints in order."""


def checkpoints(grids: list[Path]) -> list[Point]:
    """Every kept checkpoint of every finished run that may be picked, with the scores of its validation and its mean IoU on all test images."""
    found, cells = [], finished_cells(grids)
    with Bar("scoring checkpoints", len(cells)) as bar:
        for grid, cell in cells:
            run = Run(grid / cell["run"])
            found += [
                Point(cell["pair"], cell["method"], cell["seed"], step, *both)
                for step, both in trajectory(run).items()
                if step == run.config.steps or not find(run.config.spec.name).warming_up(step, run.config.steps)
            ]
            bar.step()
    return found


def trajectory(run: Run) -> dict[int, tuple[dict[str, float], float]]:
    """Step -> scores without masks on validation images, and mean test IoU, of every kept checkpoint. Both are kept beside the run, as they take a while, and
    the clues, which a run may have logged before their code was changed, are found anew after every such change; other criteria are as they were logged."""
    assert run.config.target
    folder, split = Folder.open(run.config.target), run.splits[1]
    logged = {line["step"]: line for line in map(json.loads, (run.path / "validation.jsonl").read_text(encoding="utf-8").splitlines())}
    final = None if run.config.fallback else run.record["selected"]["step"]  # the run's own scores are of it

    @cache
    def held() -> list[NDArray[Any]]:
        return [part(folder.images[stem]) for stem in evenly(split.val or split.train, MOST_IMAGES)]

    @cache
    def tests() -> list[tuple[NDArray[Any], NDArray[Any]]]:
        return [folder.pair(stem) for stem in split.test]

    def iou(step: int, model: Model) -> float:
        if step == final:
            return float(run.metrics["iou"])
        return statistics.mean(foreground(to_mask(model.probability(image)), truth > 0).iou for image, truth in tests())

    clues = _of_each(run, f"clues-{code_of_clues()}", lambda _, model: clues_on(model, held()))
    return {step: ({**logged[step], **clues[step]}, known) for step, known in _of_each(run, "test-iou", iou).items() if step in clues}


def _of_each(run: Run, name: str, judge: Callable[[int, Model], Any]) -> dict[int, Any]:
    """Step -> what ``judge`` says of the checkpoint, of every kept one; from the file of that name beside them, if it is there."""
    file = run.path / "checkpoints" / f"{name}.json"
    if not file.exists():
        paths = sorted(file.parent.glob("step_*.safetensors"))
        write_json(file, {step: judge(step, load_model(path)) for path in paths for step in [int(path.stem.removeprefix("step_"))]})
    return {int(step): found for step, found in json.loads(file.read_text(encoding="utf-8")).items()}


def with_expected(known: list[Point], judged: list[Point]) -> Runs:
    """The checkpoints by run, each with the IoU that a fit to those of ``judged`` that are on other targets expects of it, and with what it is compared by."""
    runs: Runs = {}
    for target in {point.target for point in known}:
        others, mine = [point for point in judged if point.target != target], [point for point in known if point.target == target]
        others = blind(others)
        for name, fitted in (("expected", fit(others, LEVEL)), ("preference", fit(others, COMPARED))):
            for point in mine:
                point.scores[name] = estimate(point.scores, fitted)
    for point in known:
        runs.setdefault((point.pair, point.method), {}).setdefault(point.seed, []).append(point)
    return runs


def picked(run: list[Point], criterion: str) -> Point:
    """The checkpoint that ``criterion`` keeps, of equals the later one; "last" and "best" are what their names say."""
    score: dict[str, Callable[[Point], float]] = {"last": lambda point: point.step, "best": lambda point: point.iou}
    of = score.get(criterion, lambda point: point.scores[criterion])
    return max(run, key=lambda point: (of(point), point.step))


def regrets(runs: Runs) -> str:
    """The first table, as Markdown, of the runs that kept more than one checkpoint, as one is no choice; empty where there is none."""
    names = ["last", "best", *CRITERIA]
    several = {of: {seed: run for seed, run in seeds.items() if len(run) > 1} for of, seeds in runs.items()}
    runs = {of: seeds for of, seeds in several.items() if seeds}
    if not runs:
        return ""
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
    """The second table, as Markdown, and in words what it says of all pairs. Full supervision reads no source: a pair without its own has that of another with the same target."""
    lent = {target_of(pair): seeds for (pair, method), seeds in runs.items() if method == BOUND}
    lines = [f"| pair | {BAR} | {ADAPTED} | `best` keeps | fell back | {BOUND} | gap | closed |", "|---|--:|--:|--:|--:|--:|--:|--:|"]
    shares, without, harmed, pairs = [], [], [], 0
    for pair in dict.fromkeys(pair for pair, _ in runs):
        bounds = runs.get((pair, BOUND)) or lent.get(target_of(pair))
        if bounds is None or not all((pair, method) in runs for method in (BAR, ADAPTED)):
            continue
        seeds = runs[pair, BAR], runs[pair, ADAPTED], bounds
        before, after, bound = ([picked(run, Config.select) for run in some.values()] for some in seeds)
        ends = [one if falls_back(one.scores["preference"], other.scores["preference"]) else other for one, other in zip(before, after, strict=True)]
        iou = [[point.iou for point in some] for some in (before, after, ends, bound)]
        source, alone, end, full = map(statistics.mean, iou)
        gap, pairs = full - source, pairs + 1
        closed = (end - source) / gap if gap >= SMALLEST_GAP else math.nan
        shares += [] if math.isnan(closed) else [closed]
        without += [] if math.isnan(closed) else [(alone - source) / gap]
        harmed += [f"{pair} ({end - source:.3f})"] if end < source - MOST_HARM else []
        low, adapted, best, high = map(spread, iou)
        fell = f"{sum(point.method == BAR for point in ends)} of {len(ends)}"
        lines.append(f"| {pair} | {low} | {adapted} | {best} | {fell} | {high} | {gap:.3f} | {'' if math.isnan(closed) else f'{closed:.0%}'} |")
    mean = f"{statistics.mean(shares):.0%}" if shares else ""
    lines.append(f"| **mean** over pairs with a gap of {SMALLEST_GAP} or more | | | | | | | {mean} |")
    if shares:
        lines += [
            "",
            f"- {len(shares)} of {pairs} pairs have a gap of {SMALLEST_GAP} or more. `best` closes {mean} of it on average, {statistics.median(shares):.0%} in the median; {ADAPTED} without falling back {statistics.mean(without):.0%} and {statistics.median(without):.0%}.",
            f"- More than {MOST_HARM} below {BAR}: {', '.join(harmed) or 'none'}.",
        ]
    return "\n".join(lines) + "\n"


def _rank(some: list[Point], name: str) -> float:
    found = float(spearmanr([point.scores[name] for point in some], [point.iou for point in some]).statistic)
    return 0.0 if math.isnan(found) else found


def main() -> None:
    """Print both tables, or put them into a document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grids", type=Path, nargs="+")
    parser.add_argument("--into", type=Path, help="Markdown file with parts <!-- begin selection --> and <!-- begin kept -->")
    parser.add_argument("--suffix", default="", help="of the names of these parts, such as --suffix=-every")
    parser.add_argument("--fit", type=Path, nargs="+", default=[], metavar="GRID", help="more benchmark folders for the fit of `expected`")
    parser.add_argument("--elsewhere", type=Path, nargs="+", default=[], metavar="DOMAIN", help="as benchmarks.quality takes it")
    a = parser.parse_args()
    to_fit = [*a.grids, *a.fit]
    runs = with_expected(checkpoints(a.grids), [*points(to_fit), *elsewhere(to_fit, a.elsewhere)])
    for name, text in (("selection", regrets(runs)), ("kept", kept(runs))):
        if not text:
            print(f"No run has checkpoints to choose from, so there is no table of {name}.")  # and one that stands in a document stays
        elif a.into:
            put(a.into, name + a.suffix, text)
        else:
            print(text)


if __name__ == "__main__":
    main()
