"""How well can the IoU on a target be told without its masks? Fit, and check on targets left out.

    celladapt benchmark ... --keep-checkpoints --out GRID
    python -m benchmarks.quality GRID [GRID ...] [--elsewhere DOMAIN ...] [--into docs/results.md] [--write]

Every kept checkpoint of every run is a point: its criteria on unlabelled validation images, and its mean IoU on the test images. So is each source-only
model on each domain of ``--elsewhere`` that it has nothing to do with, with statistics and normalisation of that domain: models that fail, too, must be told. A target is left out with
all pairs that lead to it, the rest is fitted, and the target's checkpoints are predicted. ``--write`` stores the fit to all points as
``src/celladapt/quality.json``, with the interval's radius from the points left out.
"""

import argparse
import csv
import json
import statistics
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.documents import put
from celladapt.data.folder import Folder
from celladapt.data.normalise import Normalisation
from celladapt.data.sample import evenly, middle
from celladapt.expectation import SIDE, scores_on
from celladapt.files import write_json
from celladapt.metrics import foreground
from celladapt.model import Model, load_model
from celladapt.networks import with_statistics_of
from celladapt.progress import Bar
from celladapt.quality import expected_iou
from celladapt.run import Run

CRITERIA = ("agreement", "witnessed", "solidity")
RIDGE = 0.3
COVERED = 0.9
FILE = Path(__file__).parents[1] / "src" / "celladapt" / "quality.json"


@dataclass(frozen=True)
class Point:
    """One checkpoint."""

    pair: str
    method: str
    seed: str
    step: int
    scores: dict[str, float]
    iou: float

    @property
    def target(self) -> str:
        """What the pair leads to."""
        return self.pair.split(" → ")[1]


def points(grids: list[Path]) -> list[Point]:
    """Every kept checkpoint of the finished runs of some benchmark folders."""
    cells = []
    for grid in grids:
        with open(grid / "cells.csv", encoding="utf-8") as file:
            cells += [(grid, cell) for cell in csv.DictReader(file) if cell["iou"] and (grid / cell["run"] / "checkpoints").is_dir()]
    found = []
    with Bar("scoring checkpoints", len(cells)) as bar:
        for grid, cell in cells:
            run = Run(grid / cell["run"])
            found += [Point(cell["pair"], cell["method"], cell["seed"], step, *both) for step, both in trajectory(run).items()]
            bar.step()
    return found


def trajectory(run: Run) -> dict[int, tuple[dict[str, float], float]]:
    """Step -> scores without masks on validation images, and mean test IoU, of every kept checkpoint; kept beside the run, as it takes a while.

    A run that is older than a criterion is scored anew.
    """
    file = run.path / "checkpoints" / "points.json"
    if file.exists():
        kept = {int(step): (scores, iou) for step, (scores, iou) in json.loads(file.read_text(encoding="utf-8")).items()}
        if all(name in scores for scores, _ in kept.values() for name in CRITERIA):
            return kept
    assert run.config.target
    folder, split = Folder.open(run.config.target), run.splits[1]
    held = [folder.images[stem] for stem in evenly(split.val or split.train, run.config.validation_images)]
    images = [folder.pair(stem) for stem in split.test]
    logged = {line["step"]: line for line in map(json.loads, (run.path / "validation.jsonl").read_text(encoding="utf-8").splitlines())}
    known = {}
    for path in sorted((run.path / "checkpoints").glob("step_*.safetensors")):
        step, model = int(path.stem.removeprefix("step_")), load_model(path)
        scores = logged[step] if all(name in logged[step] for name in CRITERIA) else scores_on(model, held)
        known[step] = scores, statistics.mean(foreground(model.predict(image).mask, truth > 0).iou for image, truth in images)
    write_json(file, known)
    return known


def elsewhere(grids: list[Path], domains: list[Path], most: int = 4) -> list[Point]:
    """The first seed's source-only models on ``domains`` that are neither their source nor their target, by at most ``most`` images of each."""
    runs = [Run(path) for grid in grids for path in sorted(grid.glob("*/source_only/seed0")) if Run(path).finished]
    found, seen = [], set()
    with Bar("elsewhere", len(runs) * len(domains)) as bar:
        for run, domain in product(runs, domains):
            source, target = run.config.source, run.config.target
            assert source
            assert target
            if domain.absolute() not in (source, target) and (source, domain) not in seen:
                seen.add((source, domain))
                folder = Folder.open(domain)
                stems = evenly(folder.labelled, most)
                normalise = Normalisation.of(middle(folder.image(stem), SIDE) for stem in stems)
                network = with_statistics_of(run.model.network, [normalise(middle(folder.image(stem), SIDE))[None] for stem in stems])
                model = Model(network, normalise)
                scores = scores_on(model, [folder.images[stem] for stem in stems])
                pairs = [(middle(image, SIDE), middle(truth, SIDE) > 0) for image, truth in map(folder.pair, stems)]
                iou = statistics.mean(foreground(model.predict(image).mask, truth).iou for image, truth in pairs)
                found.append(Point(f"{source.name} → {domain.name}", "source_only", "0", run.config.steps, scores, iou))
            bar.step()
    return found


def fit(known: list[Point]) -> dict[str, Any]:
    """Ridge regression of the logit of the IoU on standardised criteria; each pair weighs the same, however many checkpoints it has."""
    x = np.array([[point.scores[name] for name in CRITERIA] for point in known])
    y = _logit(np.array([point.iou for point in known]))
    pairs = [point.pair for point in known]
    weight = np.array([1 / pairs.count(pair) for pair in pairs])
    weight /= weight.sum()
    mean = weight @ x
    scale = np.sqrt(weight @ (x - mean) ** 2) + 1e-9
    z, intercept = (x - mean) / scale, float(weight @ y)
    gram = z.T @ (weight[:, None] * z) + RIDGE / len(set(pairs)) * np.eye(len(CRITERIA))
    weights = np.linalg.solve(gram, z.T @ (weight * (y - intercept)))
    criteria = [[name, *map(float, numbers)] for name, *numbers in zip(CRITERIA, mean, scale, x.min(0), x.max(0), strict=True)]
    return {"criteria": criteria, "weights": weights.tolist(), "intercept": intercept}


def predicted(fitted: dict[str, Any], known: list[Point]) -> NDArray[np.float64]:
    """Expected IoU of each point by a fit."""
    return np.array([expected_iou(point.scores, {**fitted, "radius": 0.0}).iou for point in known])


def left_out(known: list[Point]) -> NDArray[np.float64]:
    """Expected IoU of each point by a fit to the points of all other targets."""
    result = np.zeros(len(known))
    for target in {point.target for point in known}:
        mine = [i for i, point in enumerate(known) if point.target == target]
        others = [point for point in known if point.target != target]
        result[mine] = predicted(fit(others), [known[i] for i in mine])
    return result


def radius(errors: NDArray[np.float64]) -> float:
    """The split-conformal quantile of absolute errors."""
    ordered = np.sort(np.abs(errors))
    return float(ordered[min(len(ordered) - 1, int(np.ceil(COVERED * (len(ordered) + 1))) - 1)])


def table(known: list[Point], guess: NDArray[np.float64]) -> str:
    """Markdown: for each pair the error of the estimate, and what share of the checkpoints an interval from the other targets covers."""
    iou = np.array([point.iou for point in known])
    lines = ["| pair | checkpoints | IoU | expected | mean absolute error | in the interval | rank correlation |", "|---|--:|--:|--:|--:|--:|--:|"]
    inside = []
    radii = {}
    for target in {point.target for point in known}:  # whose points have a part neither in the fits nor in the errors that make its interval
        others = [point for point in known if point.target != target]
        radii[target] = radius(left_out(others) - np.array([point.iou for point in others]))
    for pair in dict.fromkeys(point.pair for point in known):
        mine = np.array([point.pair == pair for point in known])
        covered = np.abs(guess - iou)[mine] <= radii[pair.split(" → ")[1]]
        inside.append(covered.mean())
        numbers = f"{iou[mine].mean():.3f} | {guess[mine].mean():.3f} | {np.abs(guess - iou)[mine].mean():.3f} | {covered.mean():.0%}"
        lines.append(f"| {pair} | {mine.sum()} | {numbers} | {_rank_correlation(guess[mine], iou[mine]):.2f} |")
    errors = [np.abs(guess - iou)[np.array([point.pair == pair for point in known])].mean() for pair in dict.fromkeys(p.pair for p in known)]
    whole = f"{statistics.mean(errors):.3f} | {statistics.mean(inside):.0%} | {_rank_correlation(guess, iou):.2f}"
    return "\n".join([*lines, f"| **mean over pairs** | {len(known)} | {iou.mean():.3f} | {guess.mean():.3f} | {whole} |"]) + "\n"


def _logit(p: NDArray[np.float64]) -> NDArray[np.float64]:
    p = p.clip(0.02, 0.98)
    return np.asarray(np.log(p / (1 - p)))


def _rank_correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic) if np.ptp(a) and np.ptp(b) else float("nan")


def main() -> None:
    """Print the table, or put it into a document, and store the fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grids", type=Path, nargs="+")
    parser.add_argument("--into", type=Path, help="Markdown file with a part <!-- begin quality --> ... <!-- end quality -->")
    parser.add_argument("--write", action="store_true", help=f"store the fit as {FILE.name}")
    parser.add_argument("--elsewhere", type=Path, nargs="+", default=[], metavar="DOMAIN", help="annotated domains to try the source-only models on")
    a = parser.parse_args()
    known = [*points(a.grids), *elsewhere(a.grids, a.elsewhere)]
    guess = left_out(known)
    if a.into:
        put(a.into, "quality", table(known, guess))
    else:
        print(table(known, guess), end="")
    if a.write:
        errors = guess - np.array([point.iou for point in known])
        rests_on = {"pairs": sorted({point.pair for point in known}), "checkpoints": len(known), "covered": COVERED}
        write_json(FILE, {**fit(known), "radius": radius(errors), **rests_on})


if __name__ == "__main__":
    main()
