"""How well can the IoU on a target be told without its masks? Fit, and check on what is left out.

    celladapt benchmark ... --keep-checkpoints --out GRID
    python -m benchmarks.quality GRID [GRID ...] [--elsewhere DOMAIN ...] [--into docs/results.md] [--write] [--keep FILE]
    python -m benchmarks.quality [GRID ...] --points FILE [FILE ...] [...]

A point is a model on images: its clues, which need no mask, and its mean IoU on the same images. There is one for some kept checkpoints of every run on its test
images, and one for each first seed's source-only and supervised model on each domain of ``--elsewhere`` that it has not seen, with statistics and normalisation of that
domain: models that fail, too, must be told. In turn each target is left out, with all pairs that lead to it, or each pair; the rest is fitted, and what was left out is predicted. ``--write`` stores
the fit to all points as ``src/celladapt/quality.json``, with the interval's radius from the targets left out.

``--keep`` stores the points themselves, so that the fit can be checked, and made again with the models of another day, without training these again. They hold for one classical segmentation;
the judgements that are kept beside checkpoints (``*.judged.json``) say which code they are of, and are made anew after a change of it.

``--later`` takes points of models that came when all of that was settled, and says how far the fit to the others is off for them.

A model that was given masks of the target is taken as one that is known there: its estimate is moved by what the clues were off on these images, and such models stand apart.
"""

import argparse
import csv
import hashlib
import json
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.documents import put
from celladapt import classical, half_maximum, instances, selection, shape
from celladapt.classical import Witness, witness
from celladapt.config import MethodSpec
from celladapt.data.folder import Folder
from celladapt.data.images import read_image
from celladapt.data.normalise import Normalisation
from celladapt.data.sample import evenly, middle
from celladapt.expectation import MOST_IMAGES, SIDE
from celladapt.files import write_json, write_text
from celladapt.loading import load_model
from celladapt.methods import find
from celladapt.metrics import foreground
from celladapt.model import Model, Prediction, Predictor
from celladapt.networks import with_statistics_of
from celladapt.progress import Bar
from celladapt.quality import UNWITNESSED, Known, angle, estimate, witnessed
from celladapt.run import Run
from celladapt.selection import clues

LEVEL = ("likeness", "agreement", "witnessed", "solidity")
"""Clues to the IoU itself."""
COMPARED = ("agreement", "witnessed", "solidity")
"""Clues to which of two models on the same images is better: where the classical segmentation does not have the shape of nuclei a model that agrees with it is
no better for that."""
TAUGHT = ("likeness", "solidity")
"""Clues to the IoU of models that have learned from the classical segmentation: those that ask for the shape of nuclei. All of them agree with it, whatever it is worth."""
RIDGE = 0.05
COVERED = 0.9
MOST_CHECKPOINTS = 3
TRAINED = ("source_only", "supervised")
"""Methods whose models are tried elsewhere: those that learn from one domain alone."""
FILE = Path(__file__).parents[1] / "src" / "celladapt" / "quality.json"


@dataclass(frozen=True)
class Judgement:
    """A model on some images: its clues and its mean IoU on them, and both for each image alone."""

    scores: dict[str, float]
    iou: float
    alone: list[tuple[dict[str, float], float]]


@dataclass(frozen=True)
class Point:
    """One model on some images."""

    pair: str
    """What it has learned from masks of, an arrow, and what it is judged on."""
    method: str
    seed: str
    step: int
    scores: dict[str, float]
    iou: float
    alone: Sequence[tuple[dict[str, float], float]] = ()
    """The same of each of the images alone."""
    given: Known | None = None
    """How it does on an image of the target whose mask it was given."""

    @property
    def target(self) -> str:
        """What the pair leads to."""
        return target_of(self.pair)

    @property
    def classical(self) -> bool:
        """Whether it has learned from the classical segmentation."""
        return find(MethodSpec.parse(self.method).name).classical


def target_of(pair: str) -> str:
    """What a pair leads to."""
    return pair.split(" → ")[1]


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
            pair = f"{_learned(run).name} → {run.config.target.name}"
            masks = evenly(run.record.get("target_labelled") or [], MOST_IMAGES)
            for path in evenly(sorted((run.path / "checkpoints").glob("step_*.safetensors")), MOST_CHECKPOINTS):
                known, given = (
                    _kept_beside(path, folder, some, lambda path=path, folder=folder, some=some: judged(load_model(path), folder, some))
                    if some
                    else None
                    for some in (stems, masks)
                )
                assert known
                step = int(path.stem.removeprefix("step_"))
                point = Point(pair, cell["method"], cell["seed"], step, known.scores, known.iou, known.alone)
                found += [replace(point, given=Known(iou, scores, 1)) for scores, iou in given.alone] if given else [point]
            bar.step()
    return found


def elsewhere(grids: list[Path], domains: list[Path]) -> list[Point]:
    """The models of ``TRAINED``, of the first seed, on ``domains`` that they have not seen, each with statistics and normalisation of that domain."""
    runs = [Run(grid / cell["run"]) for grid, cell in finished_cells(grids) if cell["method"] in TRAINED and cell["seed"] == "0"]
    found, done = [], set()
    with Bar("elsewhere", len(runs) * len(domains)) as bar:
        for run, domain in product(runs, map(Path.absolute, domains)):
            learned = _learned(run)
            if domain not in (learned, run.config.target) and (learned, domain) not in done:
                done.add((learned, domain))
                folder, last = Folder.open(domain), max((run.path / "checkpoints").glob("step_*.safetensors"))
                stems = evenly(folder.labelled, MOST_IMAGES)
                known = _kept_beside(last, folder, stems, lambda last=last, folder=folder, stems=stems: transferred(load_model(last), folder, stems))
                pair = f"{learned.name} → {domain.name}"
                found.append(Point(pair, run.config.method, "0", run.config.steps, known.scores, known.iou, known.alone))
            bar.step()
    return found


def _learned(run: Run) -> Path:
    """The domain of whose masks a run has learned."""
    domain = run.config.target if run.config.method == "supervised" else run.config.source
    assert domain
    return domain


def transferred(model: Model, folder: Folder, stems: Sequence[str]) -> Judgement:
    """``judged``, with statistics and normalisation of these images."""
    normalise = Normalisation.of(middle(folder.image(stem), SIDE) for stem in stems)
    network = with_statistics_of(model.network, [normalise(middle(folder.image(stem), SIDE))[None] for stem in stems])
    return judged(Model(network, normalise), folder, stems)


def judged(model: Predictor, folder: Folder, stems: Sequence[str]) -> Judgement:
    """A model on some images of ``folder``, each cut to its middle."""
    pairs = [(middle(image, SIDE), middle(truth, SIDE) > 0) for image, truth in map(folder.pair, stems)]
    seen, opinions = [Prediction(model.probability(image)) for image, _ in pairs], [_opinion(folder.images[stem]) for stem in stems]
    iou = [foreground(some.mask, truth).iou for some, (_, truth) in zip(seen, pairs, strict=True)]
    maps = [torch.from_numpy(some.probability) for some in seen]
    alone = [clues([p], [opinion]) for p, opinion in zip(maps, opinions, strict=True)]
    return Judgement(clues(maps, opinions), statistics.mean(iou), list(zip(alone, iou, strict=True)))


@lru_cache(maxsize=256)
def _opinion(path: Path) -> Witness:
    """What the classical segmentation sees in the middle of an image: the same whichever model is judged."""
    return witness(middle(read_image(path), SIDE))


def _kept_beside(path: Path, folder: Folder, stems: Sequence[str], judge: Callable[[], Judgement]) -> Judgement:
    """What ``judge`` says of a checkpoint on some images, from the file beside it if that has it with all clues by the code as it is: judging takes a while."""
    file, where = path.with_suffix(".judged.json"), f"{folder.root.resolve()}: {', '.join(stems)} ({code_of_clues()})"
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if where not in known:
        known[where] = asdict(judge())
        write_json(file, known)
    found = known[where]
    return Judgement(found["scores"], found["iou"], [(scores, iou) for scores, iou in found["alone"]])


@cache
def code_of_clues() -> str:
    """Digest of the code that clues are made by."""
    return hashlib.sha256(
        b"".join(Path(module.__file__).read_bytes() for module in (classical, half_maximum, instances, selection, shape))
    ).hexdigest()[:12]


def store(file: Path, known: list[Point]) -> None:
    """Write points as lines of JSON, with five digits: more than any of them means."""
    lines = [json.dumps(asdict(point), separators=(",", ":")) for point in known]
    write_text(file, re.sub(r"\d+\.\d{6,}", lambda number: f"{float(number[0]):.5g}", "\n".join(lines)) + "\n")


def stored(file: Path) -> list[Point]:
    """The points that ``store`` has written."""
    found = [Point(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]
    return [replace(point, given=Known(**point.given)) if isinstance(point.given, dict) else point for point in found]


def fit(known: list[Point], names: Sequence[str] = LEVEL) -> dict[str, Any]:
    """Ridge regression of arcsin √IoU on standardised clues; each pair weighs the same, however many checkpoints it has."""
    x = np.array([[point.scores[name] for name in names] for point in known])
    y = np.array([angle(point.iou) for point in known])
    pairs = [point.pair for point in known]
    weight = np.array([1 / pairs.count(pair) for pair in pairs])
    weight /= weight.sum()
    mean = weight @ x
    scale = np.sqrt(weight @ (x - mean) ** 2) + 1e-9
    z, intercept = (x - mean) / scale, float(weight @ y)
    gram = z.T @ (weight[:, None] * z) + RIDGE * np.eye(len(names))
    weights = np.linalg.solve(gram, z.T @ (weight * (y - intercept)))
    criteria = [[name, *map(float, numbers)] for name, *numbers in zip(names, mean, scale, x.min(0), x.max(0), strict=True)]
    return {"criteria": criteria, "weights": weights.tolist(), "intercept": intercept}


def calibrated(known: list[Point]) -> dict[str, Any]:
    """``fit`` to models that were given no masks, to those of them that have learned from the classical segmentation alone, and by how much, as an angle, those that were are better where they were than elsewhere, by the same fit; each pair weighs the same."""
    fitted, told, off = fit(blind(known)), [], []
    for point in known:
        if point.given:
            there, here = (angle(estimate(scores, fitted)) for scores in (point.given.clues, point.scores))
            told.append(point)
            off.append(angle(point.given.iou) - there + here - angle(point.iou))
    taught = [point for point in blind(known) if point.classical and witnessed(point.scores)]
    return {
        **fitted,
        "classical": fit(taught, TAUGHT) if taught else fitted,
        "optimism": _by_pairs(np.array(off), told, {point.pair for point in told}) if told else 0.0,
    }


def blind(known: list[Point]) -> list[Point]:
    """Those of models that were given no mask of what they are judged on."""
    return [point for point in known if not point.given]


def predicted(fitted: dict[str, Any], known: list[Point], apart: bool = True) -> NDArray[np.float64]:
    """Expected IoU of each point by a ``calibrated`` fit; ``apart``: with the one to models that have learned from the classical segmentation."""
    return np.array([estimate(point.scores, fitted, point.given, point.classical and apart) for point in known])


def by_target(point: Point) -> str:
    """What a user with a new target has none of."""
    return point.target


def by_pair(point: Point) -> str:
    """Of which other models have been seen on the same target."""
    return point.pair


def left_out(known: list[Point], by: Callable[[Point], str] = by_target, apart: bool = True) -> NDArray[np.float64]:
    """Expected IoU of each point by a fit to all others but those that ``by`` names alike; ``apart`` as of ``predicted``."""
    result = np.zeros(len(known))
    for name in {by(point) for point in known}:
        mine = [i for i, point in enumerate(known) if by(point) == name]
        result[mine] = predicted(calibrated([point for point in known if by(point) != name]), [known[i] for i in mine], apart)
    return result


def radius(errors: NDArray[np.float64], known: list[Point]) -> float:
    """The conformal quantile of the absolute errors of ``known``, in which each pair weighs the same, however many models it has."""
    pairs = [point.pair for point in known]
    weight = np.array([1 / pairs.count(pair) for pair in pairs]) / (len(set(pairs)) + 1)
    order = np.argsort(np.abs(errors), kind="stable")
    reached = np.flatnonzero(np.cumsum(weight[order]) >= COVERED - 1e-9)
    return float(np.abs(errors)[order][reached[0] if len(reached) else -1])


def radii(known: list[Point]) -> dict[str, float]:
    """The intervals by the errors on targets left out, by their names in the file: of images of which half at least have a plausible classical segmentation, of others, and of single ones of either kind.

    Each is the larger one of that of all models and of that of adapted ones, which are few and are what is asked about; 1, which promises nothing, unless it is of three targets at least. None
    counts the fit to models that have learned from the classical segmentation: its clues were chosen knowing all of these targets, and what is gained by that is not promised. Of a
    single image no more is promised than of several, and adapted models have no quantile of their own there: the worst image of a few pairs says little.
    """
    images, found = singly(known), {}
    errors, of_images = left_out(known, apart=False) - _iou(known), left_out_singly(known, apart=False) - _iou(images)
    for end in ("", UNWITNESSED):
        mine, single = ([i for i, point in enumerate(points) if _end(point) == end] for points in (known, images))
        adapted = [i for i in mine if known[i].method not in TRAINED]
        kinds = [radius(errors[which], [known[i] for i in which]) for which in (mine, adapted) if which]
        found[f"radius{end}"] = max(kinds) if len({known[i].target for i in mine}) > 2 else 1.0
        alone = radius(of_images[single], [images[i] for i in single]) if single else 1.0
        found[f"radius_alone{end}"] = max(found[f"radius{end}"], alone)
    return found


def _end(point: Point) -> str:
    """What the names of the radii end with that a point is judged by."""
    return "" if witnessed(point.scores) else UNWITNESSED


def covered(errors: NDArray[np.float64], known: list[Point], by: dict[str, float], name: str = "radius") -> NDArray[np.float64]:
    """1 for each point that is in its interval by ``radii``, 0 for the others, NaN for those whose interval is all there is."""
    widths = np.array([by[name + _end(point)] for point in known])
    return np.where(widths < 1, (np.abs(errors) <= widths).astype(float), np.nan)


def singly(known: list[Point]) -> list[Point]:
    """A point for each image alone."""
    return [replace(point, scores=scores, iou=iou, alone=()) for point in known for scores, iou in point.alone]


def left_out_singly(known: list[Point], apart: bool = True) -> NDArray[np.float64]:
    """Expected IoU of each of ``singly(known)``, by fits to several images of all other targets; ``apart`` as of ``predicted``."""
    images = singly(known)
    result = np.zeros(len(images))
    for target in {point.target for point in known}:
        mine = [i for i, point in enumerate(images) if point.target == target]
        result[mine] = predicted(calibrated([point for point in known if point.target != target]), [images[i] for i in mine], apart)
    return result


def table(known: list[Point]) -> str:
    """Markdown: for each target how far the estimate is off, and what share of the models an interval from the other targets covers."""
    told, known = _told(known), blind(known)
    iou = _iou(known)
    new, other = left_out(known), left_out(known, by_pair)
    lines = [
        "| target | pairs | models | IoU | expected | mean absolute error | in the interval | rank correlation | mean absolute error, its other pairs known |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    rows, every_inside = [], np.zeros(len(known))
    # A target's points have a part neither in the fits nor in the errors that make its interval.
    within = {target: radii([point for point in known if point.target != target]) for target in dict.fromkeys(point.target for point in known)}
    for target in within:
        mine = np.array([point.target == target for point in known])
        pairs = {point.pair for point in known if point.target == target}
        errors = [_by_pairs(np.abs(guess - iou), known, pairs) for guess in (new, other)]
        every_inside[mine] = covered(new - iou, known, within[target])[mine]
        inside = _by_pairs(every_inside, known, pairs)
        rank = _rank_correlation(new[mine], iou[mine])
        rows.append((errors[0], inside, rank, errors[1]))
        level = f"{_by_pairs(iou, known, pairs):.3f} | {_by_pairs(new, known, pairs):.3f}"
        lines.append(f"| {target} | {len(pairs)} | {mine.sum()} | {level} | {errors[0]:.3f} | {_percent(inside)} | {rank:.2f} | {errors[1]:.3f} |")
    error, inside, rank, known_error = np.nanmean(rows, axis=0)
    every = {point.pair for point in known}
    whole = f"{len(every)} | {len(known)} | {_by_pairs(iou, known, every):.3f} | {_by_pairs(new, known, every):.3f}"
    lines.append(f"| **mean over targets** | {whole} | {error:.3f} | {_percent(inside)} | {rank:.2f} | {known_error:.3f} |")
    return "\n".join([*lines, "", *_more(known, new, every_inside, within), *told]) + "\n"


def held(known: list[Point], later: list[Point]) -> str:
    """Markdown: how far the estimate is off for models that had no part in ``known``, by the fit to ``known`` without their target."""
    later = blind(later)
    iou, told, alone, inside = _iou(later), *np.zeros((3, len(later)))
    for target in {point.target for point in later}:
        mine = np.array([point.target == target for point in later])
        others = [point for point in known if point.target != target]
        some, fitted = [point for point in later if point.target == target], calibrated(others)
        told[mine], alone[mine] = predicted(fitted, some), predicted(fitted, some, apart=False)
        inside[mine] = covered((told - iou)[mine], some, radii(blind(others)))
    adapted = np.array([point.method not in TRAINED for point in later])
    lines = ["| pair | models | IoU, adapted | expected | off by | off by, with the first fit alone |", "|---|--:|--:|--:|--:|--:|"]
    for pair in dict.fromkeys(point.pair for point in later):
        mine = adapted & [point.pair == pair for point in later]
        numbers = *(values[mine].mean() for values in (iou, told)), *(np.abs(guess - iou)[mine].mean() for guess in (told, alone))
        lines.append(f"| {pair} | {mine.sum()} | {' | '.join(f'{number:.3f}' for number in numbers)} |")
    lines.append("")
    for words, which in (("adapted models", adapted), ("source-only models", ~adapted)):
        some = [point for point, wanted in zip(later, which, strict=True) if wanted]
        pairs = {point.pair for point in some}
        error, bias, first = (_by_pairs(values[which], some, pairs) for values in (np.abs(told - iou), told - iou, np.abs(alone - iou)))
        lines.append(
            f"- {len(some)} {words}, mean over {len(pairs)} pairs: mean absolute error {error:.3f}, mean error {bias:+.3f}, by the first fit alone {first:.3f}; "
            f"in the interval {_percent(_by_pairs(inside[which], some, pairs))}."
        )
    return "\n".join(lines) + "\n"


def _told(known: list[Point]) -> list[str]:
    """How far the estimate is off for models that were given masks, as a list; empty unless these are of two targets at least."""
    mine = np.array([bool(point.given) for point in known])
    some = [point for point in known if point.given]
    targets = sorted({point.target for point in some})
    if len(targets) < 2:
        return []
    error, without = (
        left_out(known)[mine] - _iou(some),
        left_out([replace(point, given=None) if point.given else point for point in known], apart=False)[mine] - _iou(some),
    )
    pairs, images = {point.pair for point in some}, singly(some)
    of_images = left_out_singly(known)[[bool(point.given) for point in singly(known)]] - _iou(images)
    shares: dict[str, list[float]] = {"radius_known": [], "radius_known_alone": []}
    for target in targets:
        within = radii_known([point for point in known if point.target != target])
        for (name, inside), errors, of in zip(shares.items(), (error, of_images), (some, images), strict=True):
            if chosen := [i for i, point in enumerate(of) if point.target == target]:
                here = [of[i] for i in chosen]
                inside.append(_by_pairs((np.abs(errors)[chosen] <= within[name]).astype(float), here, {point.pair for point in here}))
    inside, alone = shares.values()
    singles = f"; of {len(images)} single images {statistics.mean(alone):.0%}, the least {min(alone):.0%}" if alone else ""
    return [
        f"- Of {_models(some)} models that were given masks of the target's training images, each known by one of these, on targets left out, mean over {len(pairs)} pairs: "
        f"mean absolute error {_by_pairs(np.abs(error), some, pairs):.3f}, mean error {_by_pairs(error, some, pairs):+.3f}; in the interval {statistics.mean(inside):.0%}, mean over targets, the least "
        f"{min(inside):.0%}{singles}; by the clues alone, these models among those of the fit, the mean absolute error is {_by_pairs(np.abs(without), some, pairs):.3f}."
    ]


def _models(known: list[Point]) -> int:
    """How many models the points are of: one that was given several masks has a point for each."""
    return len({(point.pair, point.method, point.seed, point.step, point.iou) for point in known})


def radii_known(known: list[Point]) -> dict[str, float]:
    """``radii`` for models that were given masks, of several images and of single ones; 1, which promises nothing, where there are none of two targets."""
    found: dict[str, float] = {}
    for name, some, guess in (("radius_known", known, left_out), ("radius_known_alone", singly(known), left_out_singly)):
        mine = [i for i, point in enumerate(some) if point.given]
        told = len({some[i].target for i in mine}) > 1
        found[name] = radius((guess(known) - _iou(some))[mine], [some[i] for i in mine]) if told else 1.0
    return {**found, "radius_known_alone": max(found.values())}


def _more(known: list[Point], new: NDArray[np.float64], inside: NDArray[np.float64], within: dict[str, dict[str, float]]) -> list[str]:
    """What the mean over targets hides, as a list: good models, adapted ones, single images."""
    iou = _iou(known)
    adapted = np.array([point.method not in TRAINED for point in known])
    believed = np.array([not _end(point) for point in known])
    lines = []
    for words, which in (
        ("models of which an IoU of 0.5 or more is expected", new >= 0.5),
        ("adapted models", adapted),
        ("adapted models on images of which half at least have a plausible classical segmentation", adapted & believed),
    ):
        if which.any():
            some = [point for point, wanted in zip(known, which, strict=True) if wanted]
            pairs = {point.pair for point in some}
            error, bias = (_by_pairs(values[which], some, pairs) for values in (np.abs(new - iou), new - iou))
            lines.append(
                f"- Of {which.sum()} {words}, on targets left out, mean over {len(pairs)} pairs: mean absolute error {error:.3f}, mean error {bias:+.3f}; "
                f"in the interval, of those that have one, {_percent(_by_pairs(inside[which], some, pairs))}."
            )
    images = singly(known)
    if images:
        guess, truth = left_out_singly(known), _iou(images)
        hits = np.concatenate(
            [covered(guess - truth, images, by, "radius_alone")[[point.target == target for point in images]] for target, by in within.items()]
        )
        where = [point for target in within for point in images if point.target == target]

        def inside_of(adapted: bool) -> list[float]:
            chosen = np.array([not (adapted and point.method in TRAINED) for point in where])
            by_targets = [hits[chosen & [point.target == target for point in where]] for target in within]
            return [float(np.nanmean(some)) for some in by_targets if not np.isnan(some).all()]

        shares, of_adapted = inside_of(False), inside_of(True)
        ends = np.cumsum([len(point.alone) for point in known])[:-1]
        rank = [_rank_correlation(*both) for both in zip(np.split(guess, ends), np.split(truth, ends), strict=True)]
        pairs = {point.pair for point in images}
        ranked = [point for point, one in zip(known, rank, strict=True) if not np.isnan(one)]
        order = _by_pairs(np.array(rank)[~np.isnan(rank)], ranked, {point.pair for point in ranked})
        lines.append(
            f"- Of {len(images)} single images, on targets left out, mean over {len(pairs)} pairs: mean absolute error {_by_pairs(np.abs(guess - truth), images, pairs):.3f}; "
            f"in the interval, of those that have one, {statistics.mean(shares):.0%}, mean over targets, the least {min(shares):.0%}"
            + (f" (of adapted models {statistics.mean(of_adapted):.0%}, the least {min(of_adapted):.0%})" if of_adapted else "")
            + "; "
            f"rank correlation of the images of one model on one target {order:.2f}, mean over pairs."
        )
    return lines


def _iou(known: list[Point]) -> NDArray[np.float64]:
    return np.array([point.iou for point in known])


def _by_pairs(values: NDArray[np.float64], known: list[Point], pairs: set[str]) -> float:
    """Mean over ``pairs`` of the mean of each, but for those with a NaN; NaN where there is no other."""
    means = [float(values[[point.pair == pair for point in known]].mean()) for pair in sorted(pairs)]
    told = [mean for mean in means if not np.isnan(mean)]
    return statistics.mean(told) if told else float("nan")


def _percent(share: float) -> str:
    return "–" if np.isnan(share) else f"{share:.0%}"


def _rank_correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic) if np.ptp(a) and np.ptp(b) else float("nan")


def main() -> None:
    """Print the table, or put it into a document, and store the fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grids", type=Path, nargs="*")
    parser.add_argument("--points", type=Path, nargs="+", default=[], metavar="FILE", help="more points, that --keep has stored")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="store all points in this file")
    parser.add_argument(
        "--later",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="points that have no part in the fit: how far it is off for them, instead of the table",
    )
    parser.add_argument(
        "--into", type=Path, help="Markdown file with a part <!-- begin quality --> ... <!-- end quality -->, of later points quality-later"
    )
    parser.add_argument("--write", action="store_true", help=f"store the fit as {FILE.name}")
    parser.add_argument("--elsewhere", type=Path, nargs="+", default=[], metavar="DOMAIN", help="annotated domains to try the models on")
    a = parser.parse_args()
    if not (a.grids or a.points):
        parser.error("name a benchmark folder, or --points")
    known = [*points(a.grids), *elsewhere(a.grids, a.elsewhere), *(point for file in a.points for point in stored(file))]
    if a.keep:
        store(a.keep, known)
    text = held(known, [point for file in a.later for point in stored(file)]) if a.later else table(known)
    if a.into:
        put(a.into, "quality-later" if a.later else "quality", text)
    else:
        print(text, end="")
    if a.write:
        rests_on = {
            "pairs": sorted({point.pair for point in known}),
            "models": _models(known),
            "covered": COVERED,
        }
        fitted = {**calibrated(known), **radii(blind(known)), **radii_known(known), "compared": fit(blind(known), COMPARED)}
        write_json(FILE, {**fitted, **rests_on})


if __name__ == "__main__":
    main()
