"""The run folder: where a run's files are, and the run as an object."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from celladapt.config import Config, read_options, with_options
from celladapt.data.split import Split, load_splits, save_splits
from celladapt.errors import InputError
from celladapt.files import TEMPORARY, write_json, write_text
from celladapt.loading import load_weights
from celladapt.locks import HOLDER, LOCK, alone
from celladapt.model import Model
from celladapt.quality import Expectation
from celladapt.records import read_json
from celladapt.shell import as_typed

BEFORE: dict[str, Any] = {"match": False, "ema": 0.0, "labelled_share": 0.0, "lambda_bce": 0.0, "fallback": False, "fit_threshold": False}
"""Options that runs of earlier versions lack, with the values that they trained by."""
RESTORE = "restore it from a copy, or start a new run with another --out"
_KINDS: dict[str, Any] = {
    "expected": dict,
    "fingerprint": dict,
    "known": dict,
    "notes": list,
    "processes": int,
    "seconds": int | float,
    "selected": dict,
    "target_labelled": list,
}
"""Entries of run.json, if they are there, and what they are."""


@dataclass(frozen=True)
class Run:
    """One training run on disk. Everything that resuming and reporting need is in ``path``."""

    path: Path

    @classmethod
    def create(cls, path: Path, config: Config, source: Split, target: Split) -> "Run":
        """Start a run folder.

        Raises:
            InputError: the folder holds something already, or another process is at it.
        """
        _must_be_free(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{path} cannot be made ({error.strerror}); choose another --out.") from None
        with alone(path):
            _must_be_free(path)  # still: of two that begin at once, one comes second
            save_splits(path / "split.json", source, target)
            # Last, because a folder with config.toml is a run that can be resumed.
            write_text(path / "config.toml", config.to_toml())
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "Run":
        """An existing run folder.

        Raises:
            InputError: it is none.
        """
        if not (path / "config.toml").is_file():
            raise InputError(f"{path} is not a run folder (it has no config.toml); give the --out folder of `celladapt adapt`.")
        return cls(path)

    @cached_property
    def config(self) -> Config:
        """The options it runs with. One that an earlier version did not know had no effect then, and has none now."""
        file = self.path / "config.toml"
        given = read_options(file)
        return with_options(Config.from_toml(file), {name: value for name, value in BEFORE.items() if name not in given})

    @cached_property
    def splits(self) -> tuple[Split, Split]:
        """Source and target split."""
        return load_splits(self.path / "split.json")

    @property
    def record(self) -> dict[str, Any]:
        """Contents of run.json, empty before the first step."""
        file = self.path / "run.json"
        record = read_json(file, RESTORE) if file.exists() else {}
        for name, kind in _KINDS.items():
            if not isinstance(record.get(name), kind | None):
                raise InputError(f"{file} is damaged (its {name} is {record[name]!r:.40}); {RESTORE}.")
        return record

    def note(self, **facts: Any) -> None:
        """Add ``facts`` to run.json."""
        write_json(self.path / "run.json", {**self.record, **facts})

    @property
    def finished(self) -> bool:
        """Whether it is trained, evaluated and reported."""
        return self.record.get("finished") is not None

    @property
    def metrics(self) -> dict[str, float]:
        """Mean over target test images of iou, dice, aji, pq and f1; empty where the target has no masks."""
        file = self.path / "metrics.json"
        mean = read_json(file, RESTORE).get("mean") if file.exists() else {}
        if not isinstance(mean, dict) or not all(isinstance(value, int | float) for value in mean.values()):
            raise InputError(f"{file} is damaged (it has no mean scores); {RESTORE}.")
        return mean

    @property
    def expected(self) -> Expectation | None:
        """The IoU to expect on the target, estimated without masks, or by those it was given; None before the run's end."""
        found = self.record.get("expected")
        try:
            return None if found is None else Expectation(float(found["iou"]), float(found["low"]), float(found["high"]), int(found.get("masks", 0)))
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{self.path / 'run.json'} is damaged (its expected is {found!r:.40}); {RESTORE}.") from None

    @property
    def report(self) -> Path:
        """The HTML page."""
        return self.path / "report.html"

    @property
    def baseline(self) -> "Run":
        """The source-only run beside it (which may not exist)."""
        return Run(self.path / "baseline")

    @cached_property
    def model(self) -> Model:
        """The selected model."""
        return load_weights(self.path)


def _must_be_free(path: Path) -> None:
    if path.exists() and (not path.is_dir() or any(not _left_behind(item) for item in path.iterdir())):
        resume = f", or continue the run in it with {as_typed('--resume', path)}" if (path / "config.toml").is_file() else ""
        raise InputError(f"{path} exists already; choose another --out{resume}.")


def _left_behind(item: Path) -> bool:
    """Whether ``item`` is of a run that was killed before its config.toml, the last file of its beginning, was there."""
    begun = item.name in (LOCK, HOLDER) or (item.name == "split.json" and (item.parent / LOCK).exists()) or TEMPORARY.fullmatch(item.name) is not None
    return begun and not (item.parent / "config.toml").exists()
