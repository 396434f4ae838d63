"""How a folder of predictions came to be: ``predictions.csv`` for people, a row for each image, and ``predictions.json``, what the model was and which of the images had trained it."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from celladapt import __version__
from celladapt.cells import as_cell, read_cells
from celladapt.data.folder import digest
from celladapt.errors import InputError
from celladapt.files import write_json, write_text
from celladapt.job import NOTES, Settings, Written, noted
from celladapt.locks import alone
from celladapt.model import Predictor
from celladapt.records import read_json

RECORD, TABLE = "predictions.json", "predictions.csv"
COLUMNS = (
    "image",
    "nuclei",
    "foreground",
    "median_area_px2",
    "median_area_um2",
    "um_per_pixel",
    "seen_in_training",
    "threshold",
    "min_size",
    "model",
    "celladapt",
)
_NAMED = 5  # images named in one sentence


def note(model: Predictor, place: Path | None, settings: Settings, out: Path, done: Sequence[Written]) -> None:
    """Note what was done, beside what earlier calls have noted of other images.

    Args:
        model: what predicted.
        place: where it was loaded from, if it was.
        settings: how.
        out: the folder of the predictions.
        done: the images that are done.

    Raises:
        InputError: it cannot be written.
    """
    trained = model.about.get("trained_on")
    known = {entry for entry in trained if isinstance(entry, str)} if isinstance(trained, list) else set()
    seen = {written.image.stem for written in done if known and written.tissue is None and _digest(written.image) in known}
    stems = {written.image.stem for written in done}
    made = {
        "celladapt": __version__,
        "torch": torch.__version__,
        "model": None if place is None else str(place.absolute()),
        "fingerprint": model.fingerprint,
        "method": model.about.get("method"),
        "settings": {name: value for name, value in asdict(settings).items() if name != "max_megapixels"},
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    rows = [dict(zip(COLUMNS, _row(written, written.image.stem in seen, settings, model), strict=True)) for written in done]
    with alone(out / NOTES):  # several calls, each with a part of the images, may end at once
        kept = [stem for stem in record_of(out).get("seen_in_training", []) if stem not in stems]
        write_json(out / RECORD, {**made, "seen_in_training": sorted([*kept, *seen])})
        rows += [row for row in _rows(out) if Path(row["image"]).stem not in stems]
        write_text(out / TABLE, _csv(sorted(rows, key=lambda row: str(row["image"]))))


def add(out: Path, **entries: Any) -> None:
    """Put ``entries`` into the record.

    Raises:
        InputError: it cannot be written.
    """
    with alone(out / NOTES):
        write_json(out / RECORD, {**record_of(out), **entries})


def record_of(folder: Path) -> dict[str, Any]:
    """What ``predictions.json`` says of the predictions in ``folder``, with ``{"seen_in_training": [stem, ...]}``; empty where there is none, or a damaged one."""
    record: dict[str, Any] = {}
    with suppress(InputError):
        record = read_json(folder / RECORD)
    seen = record.get("seen_in_training", [])
    return record if isinstance(seen, list) and all(isinstance(stem, str) for stem in seen) else {}


def doubts(folder: Path, used: Mapping[str, Iterable[str]]) -> list[str]:
    """Sentences on outputs of ``celladapt predict`` that do not belong together, by its notes; what it has no note on is left out.

    Args:
        folder: of the predictions.
        used: stem -> words of ``--save`` whose outputs are looked at.
    """
    unfinished, models = [], dict[str, str]()
    for stem, words in used.items():
        found = noted(folder, stem)
        identity = found.get("identity")
        if not isinstance(identity, dict):
            continue
        if not set(words) <= set(found.get("saved") or ()):
            unfinished.append(stem)
        models.setdefault(repr((identity.get("model"), identity.get("settings"))), stem)
    result = []
    if (folder / RECORD).exists() and not record_of(folder):
        result.append(f"CAUTION: {folder / RECORD} is damaged, so whether these images trained the model is not known.")
    if unfinished:
        result.append(
            f"CAUTION: the last `celladapt predict` did not finish {_names(unfinished)}, so what lies there is of an earlier one; give its command again."
        )
    if len(models) > 1:
        first, second, *_ = models.values()
        result.append(f"CAUTION: these predictions are of {len(models)} models or settings ({first} and {second} differ).")
    return result


def _names(stems: Sequence[str]) -> str:
    return ", ".join(stems[:_NAMED]) + (f" and {len(stems) - _NAMED} more" if len(stems) > _NAMED else "")


def _digest(path: Path) -> str:
    with suppress(InputError, OSError):
        return digest(path)
    return ""  # it has gone, or cannot be read any more: of the others it is known


def _row(written: Written, seen: bool, settings: Settings, model: Predictor) -> list[Any]:
    size = written.pixel_size
    micro = "" if size is None else f"{written.median_area * size**2:.6g}"
    return [
        written.image.name, written.nuclei, f"{written.foreground:.6g}", f"{written.median_area:.6g}", micro, "" if size is None else f"{size:.6g}",
        "yes" if seen else "no", settings.threshold, settings.min_size, model.fingerprint, __version__,
    ]  # fmt: skip


def _rows(out: Path) -> list[dict[str, Any]]:
    """What the table says already; nothing where somebody has made it unreadable."""
    with suppress(OSError, UnicodeDecodeError, csv.Error), open(out / TABLE, encoding="utf-8-sig", newline="") as lines:
        return [row for row in read_cells(lines) if row.get("image")]
    return []


def _csv(rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([as_cell(row.get(column, "")) for column in COLUMNS] for row in rows)
    return text.getvalue()
