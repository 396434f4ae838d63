"""The page of one run."""

import re
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from celladapt.reporting.differences import group_of
from celladapt.reporting.figures import Line, curve, overlay, read_picture, spans_decades, training_lines, window
from celladapt.reporting.grid import learns
from celladapt.reporting.paired import difference, of_mean
from celladapt.reporting.reading import Run, mapping, number, read_run, sequence
from celladapt.reporting.rendering import PAGE_BYTES, render

EXAMPLES = 6
GROWS = ("entropy", "last")
"""Criteria by which the last checkpoint comes first in a run as it should be."""
NEARLY_EMPTY, NEARLY_FULL = 0.001, 0.9  # foreground shares beyond which a prediction of nuclei is suspect
FEW_IMAGES = 5
POOR = 0.5  # expected IoU below which masks are not to be trusted unseen


@dataclass(frozen=True)
class Panel:
    """One picture of an example: its caption, its data URI, the kind of outline on it (or ""), and its IoU where there is one."""

    caption: str
    uri: str
    kind: str = ""
    iou: float | None = None


@dataclass(frozen=True)
class Example:
    """One target image with its panels; ``note`` says what part of it is shown."""

    stem: str
    note: str
    panels: list[Panel]


def run_page(folder: Path, finished: str | None = None) -> str:
    """The HTML of one run folder, whole or unfinished, or as it will be at ``finished``."""
    run = read_run(folder)
    if finished is not None:
        run = replace(run, info={**run.info, "finished": finished})
    baseline_folder = folder / "baseline"
    baseline = read_run(baseline_folder) if (baseline_folder / "run.json").is_file() else None
    step = number(run.selected.get("step"))
    return render(
        "run.html.j2",
        run=run,
        learns=learns(run.method),
        baseline=baseline,
        source=run.domains[0],
        target=run.domains[1],
        counts=_counts(run),
        comparison=_comparison(run, baseline),
        interval=_interval(run),
        agreement=_agreement(run, baseline),
        expected=_expected(run),
        fell_back=bool(run.info.get("fell_back")),
        warnings=[str(note) for note in sequence(run.info.get("notes"))] + run.faults + _warnings(run, baseline),
        examples=examples(run, baseline),
        losses=_losses(run),
        validations=[
            {
                "name": name,
                "picked": name == run.selected.get("criterion"),
                "svg": curve([Line(x, y)], label=f"{name} over training steps", mark=step),
            }
            for name, (x, y) in run.validation.items()
        ],
        step=step,
        seconds=number(run.info.get("seconds")),
        last_step=max((x[-1] for x, _ in run.log.values()), default=0.0),
        options=_flat(run.config),
        parameters={str(name): number(count) for name, count in mapping(run.info.get("parameters")).items()},
        fingerprints={str(key): str(value) for key, value in mapping(run.info.get("fingerprint")).items()},
    )


def examples(run: Run, baseline: Run | None, limit: int = EXAMPLES) -> list[Example]:
    """At most ``limit`` examples, spread evenly over the ranking by IoU (lowest first) or, without scores, over the names."""
    scores = run.scores.images if run.scores else {}
    ranked = sorted(run.examples, key=lambda path: (scores.get(path.name, {}).get("iou", 0.0), path.name))
    chosen = [ranked[index] for index in np.unique(np.linspace(0, len(ranked) - 1, min(limit, len(ranked))).astype(int))] if ranked else []
    result: list[Example] = []
    size = 0
    for path in chosen:
        example = _example(path, run, baseline)
        size += sum(len(panel.uri) for panel in example.panels) if example else 0
        if size > PAGE_BYTES:
            break
        if example:
            result.append(example)
    return result


def _example(path: Path, run: Run, baseline: Run | None) -> Example | None:
    image = read_picture(path / "image.png", colour=True)
    if image is None:
        return None
    view = window(image.shape[0], image.shape[1])
    panels = [Panel("Image", overlay(image, view))]

    def fits(name: str, folder: Path = path, colour: bool = False) -> Any:
        picture = read_picture(folder / name, colour=colour)
        return picture if picture is not None and picture.shape[:2] == image.shape[:2] else None

    if (probability := fits("probability.png")) is not None:
        panels.append(Panel("Probability of nucleus", overlay(probability, view), "probability"))
    if (reconstruction := fits("reconstruction.png", colour=True)) is not None:
        panels.append(Panel("Reconstruction R(S(Iₜ))", overlay(reconstruction, view), "reconstruction"))
    if baseline and (before := fits("prediction.png", baseline.folder / "examples" / path.name)) is not None:
        panels.append(Panel("Source only", overlay(image, view, {"baseline": before}), "baseline", _ious(baseline).get(path.name)))
    if (prediction := fits("prediction.png")) is not None:
        panels.append(Panel("This run", overlay(image, view, {"prediction": prediction}), "prediction", _ious(run).get(path.name)))
    if (truth := fits("truth.png")) is not None:
        panels.append(Panel("Annotation", overlay(image, view, {"truth": truth}), "truth"))
    return Example(path.name, view.note, panels)


def _ious(run: Run) -> dict[str, float]:
    """Stem -> IoU of the test images that have one."""
    return {stem: scores["iou"] for stem, scores in run.scores.images.items() if "iou" in scores} if run.scores else {}


def _counts(run: Run) -> dict[str, dict[str, int]]:
    """Images of each domain in each part of the split."""
    return {
        domain: {part: len(sequence(mapping(run.split.get(domain)).get(part))) for part in ("train", "val", "test")}
        for domain in ("source", "target")
        if domain in run.split
    }


def _comparison(run: Run, baseline: Run | None) -> dict[str, float | None] | None:
    """IoU of this run less that of source only, over the images that both scored: mean difference with its interval, images that gained, images."""
    if baseline is None:
        return None
    here, there = _ious(run), _ious(baseline)
    stems = sorted(here.keys() & there.keys())
    if not stems:
        return None
    found = difference([[here[stem] for stem in stems]], [[there[stem] for stem in stems]], _patients(run, stems))
    return {
        "difference": found.mean,
        "low": found.low,
        "high": found.high,
        "gained": sum(here[stem] > there[stem] for stem in stems),
        "images": len(stems),
    }


def _interval(run: Run) -> tuple[float, float] | None:
    """Of the mean IoU over test images; None where there are too few."""
    found = _ious(run)
    return of_mean(list(found.values()), _patients(run, list(found))) if found else None


def _patients(run: Run, stems: list[str]) -> list[str] | None:
    """Patient or slide of each image by the pattern that the split kept them together by; None without one, or with one that somebody has broken."""
    with suppress(re.error):
        return [group_of(re.compile(run.group), stem) for stem in stems] if run.group else None
    return None


def _agreement(run: Run, baseline: Run | None) -> float | None:
    """Foreground IoU of this run's masks with those of source only, mean over the examples: what adapting changed, for which no annotation is needed."""
    if baseline is None:
        return None
    overlaps = []
    for path in run.examples:
        here, there = (read_picture(folder / "prediction.png", colour=False) for folder in (path, baseline.folder / "examples" / path.name))
        if here is not None and there is not None and here.shape == there.shape:
            either = np.count_nonzero((here != 0) | (there != 0))
            overlaps.append(np.count_nonzero((here != 0) & (there != 0)) / either if either else 1.0)
    return fmean(overlaps) if overlaps else None


def _expected(run: Run) -> dict[str, float] | None:
    """The IoU that is expected, with its interval, by how many masks, 0 in runs of earlier versions, and whether the interval leaves anything out, so that there is something to go by."""
    values = {"masks": 0.0} | {str(name): value for name, item in mapping(run.info.get("expected")).items() if (value := number(item)) is not None}
    return {**values, "told": values["high"] - values["low"] < 1} if {"iou", "low", "high"} <= values.keys() else None


def _losses(run: Run) -> list[dict[str, Any]]:
    """One panel per logged term, those that the method explains first and in its order."""
    terms = {str(name): str(text) for name, text in mapping(run.info.get("terms")).items()}
    names = [name for name in terms if name in run.log] + [name for name in run.log if name not in terms]
    result = []
    for name in names:
        x, y = run.log[name]
        log = spans_decades(y)
        svg = curve(training_lines(x, y), label=f"{name} over training steps", log=log)
        result.append({"name": name, "text": terms.get(name, ""), "log": log, "svg": svg})
    return result


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested options -> {"table.key": text}."""
    result: dict[str, str] = {}
    for key, value in config.items():
        result |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": str(value)}
    return result


def _warnings(run: Run, baseline: Run | None) -> list[str]:
    """What a careful reader of the run would object to."""
    result = [
        f"The term {name} was not a finite number, first at step {x[~np.isfinite(y)][0]:,.0f}."
        for name, (x, y) in run.log.items()
        if not np.isfinite(y).all()
    ]
    shares, empty, full = 0, 0, 0
    for path in run.examples:
        prediction, truth = (read_picture(path / f"{name}.png", colour=False) for name in ("prediction", "truth"))
        if prediction is None:
            continue
        share = float(np.count_nonzero(prediction)) / prediction.size
        shares += 1
        empty += share < NEARLY_EMPTY and (truth is None or bool(truth.any()))
        full += share > NEARLY_FULL
    for count, word in ((empty, "nearly empty"), (full, "nearly all foreground")):
        if count:
            result.append(f"The prediction is {word} on {count} of {shares} example images: the model may have collapsed on the target.")
    step = number(run.selected.get("step"))
    steps = np.unique(np.concatenate([x for x, _ in run.validation.values()])) if run.validation else np.array([])
    if step is not None and len(steps) > 1:
        if step == steps[0]:
            result.append(
                "The selected step is the first one validated: training on did not help by the criterion, so look at the curves before trusting it."
            )
        if step == steps[-1] and run.selected.get("criterion") not in GROWS:
            result.append(
                "The selected step is the last one validated: the criterion may not have peaked yet, and more steps may give a better model."
            )
    if (expected := _expected(run)) and expected["told"] and expected["iou"] < POOR:
        result.append("The IoU that is expected is low: look at the predictions one by one before using them.")
    if run.scores:
        images = len(run.scores.images)
        if 0 < images < FEW_IMAGES:
            result.append(
                f"Only {images} test image{'s' if images > 1 else ''}: the number is uncertain; annotate more target images before relying on it."
            )
        worse = (_comparison(run, baseline) or {}).get("difference") or 0.0
        if worse < 0:
            result.append("Source only scores higher than this run on the same images: no gain from adaptation is shown here.")
    return result
