"""Run folder -> values. Whatever a killed run left half written is left out and named, never fatal."""

import json
import math
import tomllib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from celladapt.errors import InputError

SOURCE_ONLY = "source_only"  # the method without adaptation, which every other is held against

Columns = dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]


@dataclass(frozen=True)
class Scores:
    """``metrics.json``: mean and standard deviation over images, and the images themselves; every score in 0..1."""

    mean: dict[str, float]
    sd: dict[str, float]
    images: dict[str, dict[str, float]]

    def of(self, metric: str) -> list[float]:
        """The scores of all images by one metric, in the order of the file."""
        return [scores[metric] for scores in self.images.values() if metric in scores]


@dataclass(frozen=True)
class Run:
    """The files of one run folder. What is absent is empty, ``scores`` is None; ``faults`` says in plain words what could not be read."""

    folder: Path
    info: dict[str, Any]
    config: dict[str, Any]
    split: dict[str, Any]
    log: Columns
    validation: Columns
    scores: Scores | None
    examples: list[Path]
    faults: list[str]

    @property
    def method(self) -> str:
        """The method's name as the command line knows it."""
        return str(self.config.get("method") or "unknown method")

    @property
    def is_source_only(self) -> bool:
        """Whether this run adapts nothing and only sets the bar."""
        return self.method == SOURCE_ONLY

    @property
    def domains(self) -> tuple[str, str]:
        """Short names of source and target: the folder's name, with its parent where the two would be equal."""
        source, target = (Path(str(self.config.get(key) or f"unknown {key}")) for key in ("source", "target"))
        if source.name == target.name and source != target:
            return "/".join(source.parts[-2:]), "/".join(target.parts[-2:])
        return source.name, target.name

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return bool(self.info.get("finished"))

    @property
    def selected(self) -> dict[str, Any]:
        """The chosen checkpoint: step, criterion, score, uses_target_labels; empty before the choice."""
        return mapping(self.info.get("selected"))

    @property
    def group(self) -> str:
        """The pattern by which target images of one patient or slide were kept together: as recorded, or as asked for; "" without one."""
        return str(self.info.get("group") or self.config.get("group") or "")

    @property
    def target_labelled(self) -> list[str]:
        """Stems of the target images whose masks the run may use."""
        return [str(stem) for stem in sequence(self.info.get("target_labelled"))]

    @property
    def trained_masks(self) -> int:
        """How many target training images came with a mask."""
        return len(set(self.target_labelled) & {str(stem) for stem in sequence(mapping(self.split.get("target")).get("train"))})

    @property
    def uses_target_labels(self) -> bool:
        """Whether a mask of the target had a part in training or in the choice of the checkpoint."""
        return bool(self.target_labelled) or bool(self.selected.get("uses_target_labels"))


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        InputError: ``run.json`` is missing or is not JSON.
    """
    faults: list[str] = []
    info = _json(folder / "run.json", faults)
    if faults or not info:
        raise InputError(f"{folder / 'run.json'} cannot be read as a run's record; run the training again or restore the file.")
    examples = folder / "examples"
    return Run(
        folder=folder,
        info=info,
        config=_toml(folder / "config.toml", faults),
        split=_json(folder / "split.json", faults),
        log=_columns(folder / "log.jsonl", faults),
        validation=_columns(folder / "validation.jsonl", faults),
        scores=_scores(folder / "metrics.json", faults),
        examples=sorted(path for path in examples.iterdir() if path.is_dir()) if examples.is_dir() else [],
        faults=faults,
    )


def mapping(value: object) -> dict[str, Any]:
    """``value`` if it is a mapping, otherwise an empty one."""
    return value if isinstance(value, dict) else {}


def sequence(value: object) -> list[Any]:
    """``value`` if it is a list, otherwise an empty one."""
    return value if isinstance(value, list) else []


def number(value: object) -> float | None:
    """``value`` (a number or its text) as a finite float, otherwise None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        result = float(value)
    except (ValueError, OverflowError):
        return None
    return result if math.isfinite(result) else None


def _text(path: Path, faults: list[str]) -> str | None:
    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait without end
            faults.append(f"{path.name} is not a file and was left out.")
            return None
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        faults.append(f"{path.name} could not be read ({error.strerror}).")
        return None


def _json(path: Path, faults: list[str]) -> dict[str, Any]:
    text = _text(path, faults)
    try:
        return {} if text is None else mapping(json.loads(text))
    except (ValueError, RecursionError):
        faults.append(f"{path.name} is damaged and was left out.")
        return {}


def _toml(path: Path, faults: list[str]) -> dict[str, Any]:
    text = _text(path, faults)
    try:
        return {} if text is None else tomllib.loads(text)
    except (ValueError, RecursionError):
        faults.append(f"{path.name} is damaged and was left out.")
        return {}


def _numbers(value: object) -> dict[str, float]:
    return {str(key): result for key, item in mapping(value).items() if (result := number(item)) is not None}


def _scores(path: Path, faults: list[str]) -> Scores | None:
    value = _json(path, faults)
    mean = _numbers(value.get("mean"))
    if not mean:
        return None
    images = {str(stem): _numbers(scores) for stem, scores in mapping(value.get("images")).items()}
    return Scores(mean, _numbers(value.get("sd")), images)


def _columns(path: Path, faults: list[str]) -> Columns:
    """JSON lines with a ``step`` each -> per key (steps, values), both (N,) float64 with steps ascending; NaN and infinity are kept."""
    lines = (_text(path, faults) or "").splitlines()
    rows: dict[float, dict[str, Any]] = {}
    damaged = 0
    for index, line in enumerate(lines):
        try:
            row = mapping(json.loads(line)) if line.strip() else {}
        except (ValueError, RecursionError):
            # A run that was killed may leave its last line half written: that is no fault.
            damaged += index < len(lines) - 1
            continue
        if (step := number(row.get("step"))) is not None:
            # A resumed run repeats the steps after its last checkpoint; the later line is the one that counts.
            rows[step] = row
    if damaged:
        faults.append(f"{path.name} has {damaged} damaged line{'s' if damaged > 1 else ''}, left out.")
    points: dict[str, list[tuple[float, float]]] = {}
    for step in sorted(rows):
        for key, value in rows[step].items():
            if key != "step" and isinstance(value, int | float) and not isinstance(value, bool):
                with suppress(OverflowError):  # a whole number of 400 digits
                    point = (step, float(value))
                    points.setdefault(key, []).append(point)
    return {key: (np.array([x for x, _ in pairs]), np.array([y for _, y in pairs])) for key, pairs in points.items()}
