"""How well can the IoU on a target be told without its masks? Fit, and check on what is left out.

    celladapt benchmark ... --keep-checkpoints --out GRID
    python -m benchmarks.quality GRID [GRID ...] [--elsewhere DOMAIN ...] [--into docs/results.md] [--write]

A point is a model on images: its criteria, which need no mask, and its mean IoU on the same images. There is one for some kept checkpoints of every run on its test
images, and one for each first seed's source-only and supervised model on each domain of ``--elsewhere`` that it has nothing to do with, with statistics and normalisation of that
domain: models that fail, too, must be told. In turn each target is left out, with all pairs that lead to it, or each pair; the rest is fitted, and what was left out is predicted. ``--write`` stores
the fit to all points as ``src/celladapt/quality.json``, with the interval's radius from the targets left out.
"""

import argparse
import csv
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.documents import put
from celladapt.data.folder import Folder
from celladapt.data.normalise import Normalisation
from celladapt.data.sample import evenly, middle
from celladapt.expectation import SIDE, clues_on
from celladapt.files import write_json
from celladapt.metrics import foreground
from celladapt.model import Model, load_model
from celladapt.networks import with_statistics_of
from celladapt.progress import Bar
from celladapt.quality import expected_iou
from celladapt.run import Run

CRITERIA = ("likeness", "classical_recall", "solidity", "area", "classical_area")
RIDGE = 0.05
COVERED = 0.9
MOST_IMAGES = 4
MOST_CHECKPOINTS = 3
TRAINED = ("source_only", "supervised")
"""Methods whose models are tried elsewhere: those that learn from one domain alone."""
Judgement = tuple[dict[str, float], float, tuple[dict[str, float], float]]
"""The criteria of a model on some images, its mean IoU on them, and both for the first of them alone."""
FILE = Path(__file__).parents[1] / "src" / "celladapt" / "quality.json"


@dataclass(frozen=True)
class Point:
    """One model on some images."""

    pair: str
    method: str
    seed: str
    step: int
    scores: dict[str, float]
    iou: float
    alone: tuple[dict[str, float], float] | None = None
    """The same of the first of the images alone."""

    @property
    def target(self) -> str:
        """What the pair leads to."""
        return self.pair.split(" → ")[1]


def finished_cells(grids: list[Path]) -> list[tuple[Path, dict[str, str]]]:
    """The rows of some benchmark folders whose runs have kept their checkpoints, each with its folder."""
    cells = []
    for grid in grids:
        with open(grid / "cells.csv", encoding="utf-8") as file:
            cells += [(grid, cell) for cell in csv.DictReader(file) if cell["iou"] and (grid / cell["run"] / "checkpoints").is_dir()]
    return cells


def points(grids: list[Path]) -> list[Point]:
    """Some checkpoints of every finished run, on test images."""
    found, cells = [], finished_cells(grids)
    with Bar("judging checkpoints", len(cells)) as bar:
        for grid, cell in cells:
            run = Run(grid / cell["run"])
            assert run.config.target
            folder, stems = Folder.open(run.config.target), evenly(run.splits[1].test, MOST_IMAGES)
            for path in evenly(sorted((run.path / "checkpoints").glob("step_*.safetensors")), MOST_CHECKPOINTS):
                both = _kept_beside(path, "test images", partial(judged, path, folder, stems))
                found.append(Point(cell["pair"], cell["method"], cell["seed"], int(path.stem.removeprefix("step_")), *both))
            bar.step()
    return found


def elsewhere(grids: list[Path], domains: list[Path]) -> list[Point]:
    """The models of ``TRAINED``, of the first seed, on ``domains`` that are neither their source nor their target."""
    runs = [Run(grid / cell["run"]) for grid, cell in finished_cells(grids) if cell["method"] in TRAINED and cell["seed"] == "0"]
    found, seen = [], set()
    with Bar("elsewhere", len(runs) * len(domains)) as bar:
        for run, domain in product(runs, domains):
            source, target = run.config.source, run.config.target
            assert source
            assert target
            learned = source if run.config.method == "source_only" else target
            if domain.absolute() not in (source, target) and (learned, domain) not in seen:
                seen.add((learned, domain))
                last = max((run.path / "checkpoints").glob("step_*.safetensors"))
                both = _kept_beside(last, str(domain), partial(transferred, last, domain))
                found.append(Point(f"{learned.name} → {domain.name}", run.config.method, "0", run.config.steps, *both))
            bar.step()
    return found


def transferred(path: Path, domain: Path) -> Judgement:
    """A checkpoint on another domain, with statistics and normalisation of that."""
    folder = Folder.open(domain)
    stems = evenly(folder.labelled, MOST_IMAGES)
    normalise = Normalisation.of(middle(folder.image(stem), SIDE) for stem in stems)
    network = with_statistics_of(load_model(path).network, [normalise(middle(folder.image(stem), SIDE))[None] for stem in stems])
    return judged(Model(network, normalise), folder, stems)


def judged(model: Model | Path, folder: Folder, stems: Sequence[str]) -> Judgement:
    """A model, or a checkpoint, on some images of ``folder``, each cut to its middle: its criteria, and its mean IoU on just these."""
    model = load_model(model) if isinstance(model, Path) else model
    pairs = [(middle(image, SIDE), middle(truth, SIDE) > 0) for image, truth in map(folder.pair, stems)]
    iou = [foreground(model.predict(image).mask, truth).iou for image, truth in pairs]
    return clues_on(model, [image for image, _ in pairs]), statistics.mean(iou), (clues_on(model, [pairs[0][0]]), iou[0])


def _kept_beside(path: Path, where: str, judge: Callable[[], Judgement]) -> Judgement:
    """What ``judge`` says of a checkpoint on the images ``where``, from the file beside it if that has it with all criteria: judging takes a while."""
    file = path.with_suffix(".judged.json")
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if where not in known or not known[where][0].keys() >= set(CRITERIA):
        known[where] = judge()
        write_json(file, known)
    scores, iou, (scores_alone, iou_alone) = known[where]
    return scores, iou, (scores_alone, iou_alone)


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
    gram = z.T @ (weight[:, None] * z) + RIDGE * np.eye(len(CRITERIA))
    weights = np.linalg.solve(gram, z.T @ (weight * (y - intercept)))
    criteria = [[name, *map(float, numbers)] for name, *numbers in zip(CRITERIA, mean, scale, x.min(0), x.max(0), strict=True)]
    return {"criteria": criteria, "weights": weights.tolist(), "intercept": intercept}


def predicted(fitted: dict[str, Any], known: list[Point]) -> NDArray[np.float64]:
    """Expected IoU of each point by a fit."""
    return np.array([expected_iou(point.scores, {**fitted, "radius": 0.0}).iou for point in known])


def by_target(point: Point) -> str:
    """What a user with a new target has none of."""
    return point.target


def by_pair(point: Point) -> str:
    """Of which other models have been seen on the same target."""
    return point.pair


def left_out(known: list[Point], by: Callable[[Point], str] = by_target) -> NDArray[np.float64]:
    """Expected IoU of each point by a fit to all others but those that ``by`` names alike."""
    result = np.zeros(len(known))
    for name in {by(point) for point in known}:
        mine = [i for i, point in enumerate(known) if by(point) == name]
        result[mine] = predicted(fit([point for point in known if by(point) != name]), [known[i] for i in mine])
    return result


def first_alone(known: list[Point]) -> list[tuple[dict[str, Any], list[Point]]]:
    """For each target the fit to all others, and the points of the first image alone of each model on it."""
    found = []
    for target in {point.target for point in known}:
        mine = [replace(point, scores=point.alone[0], iou=point.alone[1]) for point in known if point.target == target and point.alone]
        found.append((fit([point for point in known if point.target != target]), mine))
    return found


def radius(errors: NDArray[np.float64]) -> float:
    """The split-conformal quantile of absolute errors."""
    ordered = np.sort(np.abs(errors))
    return float(ordered[min(len(ordered) - 1, int(np.ceil(COVERED * (len(ordered) + 1))) - 1)])


def table(known: list[Point]) -> str:
    """Markdown: for each target how far the estimate is off, and what share of the models an interval from the other targets covers."""
    iou = np.array([point.iou for point in known])
    new, other = left_out(known), left_out(known, by_pair)
    lines = [
        "| target | pairs | models | IoU | expected | mean absolute error | in the interval | rank correlation | mean absolute error, its other pairs known |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    rows = []
    for target in dict.fromkeys(point.target for point in known):
        # A target's points have a part neither in the fits nor in the errors that make its interval.
        others = [point for point in known if point.target != target]
        within = radius(left_out(others) - np.array([point.iou for point in others]))
        mine = np.array([point.target == target for point in known])
        pairs = {point.pair for point in known if point.target == target}
        errors = [_by_pairs(np.abs(guess - iou), known, pairs) for guess in (new, other)]
        inside = _by_pairs((np.abs(new - iou) <= within).astype(float), known, pairs)
        rank = _rank_correlation(new[mine], iou[mine])
        rows.append((errors[0], inside, rank, errors[1]))
        level = f"{_by_pairs(iou, known, pairs):.3f} | {_by_pairs(new, known, pairs):.3f}"
        lines.append(f"| {target} | {len(pairs)} | {mine.sum()} | {level} | {errors[0]:.3f} | {inside:.0%} | {rank:.2f} | {errors[1]:.3f} |")
    error, inside, rank, known_error = np.nanmean(rows, axis=0)
    every = {point.pair for point in known}
    whole = f"{len(every)} | {len(known)} | {_by_pairs(iou, known, every):.3f} | {_by_pairs(new, known, every):.3f}"
    lines.append(f"| **mean over targets** | {whole} | {error:.3f} | {inside:.0%} | {rank:.2f} | {known_error:.3f} |")
    return "\n".join([*lines, *_of_single_images(known)]) + "\n"


def _of_single_images(known: list[Point]) -> list[str]:
    """A paragraph, where single images were judged."""
    errors = [np.abs(predicted(fitted, of) - [point.iou for point in of]) for fitted, of in first_alone(known) if of]
    if len(errors) < 2:
        return []
    within = [radius(np.concatenate(errors[:i] + errors[i + 1 :])) for i in range(len(errors))]
    inside = statistics.mean(float((mine <= most).mean()) for mine, most in zip(errors, within, strict=True))
    off = statistics.mean(float(mine.mean()) for mine in errors)
    return ["", f"Of a single image, by fits to the other targets: mean absolute error {off:.3f}, {inside:.0%} in the interval (means over targets)."]


def _by_pairs(values: NDArray[np.float64], known: list[Point], pairs: set[str]) -> float:
    """Mean over ``pairs`` of the mean of each."""
    return statistics.mean(float(values[[point.pair == pair for point in known]].mean()) for pair in sorted(pairs))


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
    parser.add_argument("--elsewhere", type=Path, nargs="+", default=[], metavar="DOMAIN", help="annotated domains to try the models on")
    a = parser.parse_args()
    known = [*points(a.grids), *elsewhere(a.grids, a.elsewhere)]
    if a.into:
        put(a.into, "quality", table(known))
    else:
        print(table(known), end="")
    if a.write:
        errors = left_out(known) - np.array([point.iou for point in known])
        first = np.concatenate([predicted(fitted, of) - [point.iou for point in of] for fitted, of in first_alone(known)])
        rests_on = {"pairs": sorted({point.pair for point in known}), "models": len(known), "covered": COVERED}
        write_json(FILE, {**fit(known), "radius": radius(errors), "radius_alone": radius(first), **rests_on})


if __name__ == "__main__":
    main()
