"""How a folder of predictions came to be: ``predictions.csv`` for people, a row for each image, and ``predictions.json``, what the model was and which of the images had trained it."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from celladapt import __version__
from celladapt.cells import as_cell, read_cells
from celladapt.data.folder import digest
from celladapt.errors import FileError, InputError
from celladapt.files import now, write_json, write_text
from celladapt.inputs import NOTES
from celladapt.job import Settings, Written, noted
from celladapt.locks import NoLocksError, alone
from celladapt.model import Predictor
from celladapt.progress import say
from celladapt.records import read_json

RECORD, TABLE = "predictions.json", "predictions.csv"
_NAMED = 5


def note(model: Predictor, place: Path | None, settings: Settings, out: Path, done: Sequence[Written], anew: bool) -> None:
    """Note what was done, beside what earlier calls have noted of other images.

    Args:
        model: what predicted.
        place: where it was loaded from, if it was.
        settings: how.
        out: the folder of the predictions.
        done: the images that are done.
        anew: whether this call has segmented any of them; else the record stays that of the one which did.

    Raises:
        InputError: it cannot be written, or ``check`` says so.
    """
    trained = model.about.get("trained_on")
    known = {entry for entry in trained if isinstance(entry, str)} if isinstance(trained, list) else set()
    seen = {written.image.stem for written in done if known and written.tissue is None and _digest(written.image) in known}
    about = {
        "celladapt": __version__,
        "torch": torch.__version__,
        "model": None if place is None else str(place.absolute()),
        "fingerprint": model.fingerprint,
        "method": model.about.get("method"),
        "settings": {name: value for name, value in asdict(settings).items() if name != "max_megapixels"},
        "finished": now(),
    }
    with _held(out):
        before, rows = record_of(out), {_stem_of(row["image"]): row for row in check(out)}
        told = {*before.get("seen_in_training", ()), *(stem for stem, row in rows.items() if row.get("seen_in_training") == "yes")}
        seen |= told - {written.image.stem for written in done}
        write_json(out / RECORD, {**before, **(about if anew or not before else {}), "seen_in_training": sorted(seen)})
        for written in done:
            row = _row(written, written.image.stem in seen, settings, model, noted(out, written.image.stem))
            stem = _stem_of(row["image"])
            rows[stem] = {**rows.get(stem, {}), **row}
        write_text(out / TABLE, _csv(sorted(rows.values(), key=lambda row: str(row["image"]))))


def add(out: Path, **entries: Any) -> None:
    """Put ``entries`` into the record.

    Raises:
        InputError: it cannot be written.
    """
    with _held(out):
        write_json(out / RECORD, {**record_of(out), **entries})


def check(out: Path) -> list[dict[str, Any]]:
    """The rows of the table that is there already.

    Raises:
        InputError: there is another program's table in its place, or it cannot be read, so that it would be lost.
    """
    file = out / TABLE
    if not file.exists():
        return []
    rows = None
    with suppress(OSError, UnicodeDecodeError, csv.Error):
        rows = read_cells(io.StringIO(file.read_text(encoding="utf-8-sig")))
    if rows is None or any(not row.get("image") or "model" not in row for row in rows):
        raise FileError(
            file, "is not the table that `celladapt predict` wrote, or another program has saved it", "move it away, or choose another --out"
        )
    return list(rows)


def record_of(folder: Path) -> dict[str, Any]:
    """What ``predictions.json`` says of the predictions in ``folder``, with ``{"seen_in_training": [stem, ...]}``; empty where there is none, or a damaged one."""
    record: dict[str, Any] = {}
    with suppress(InputError):
        record = read_json(folder / RECORD)
    seen = record.get("seen_in_training", [])
    return record if isinstance(seen, list) and all(isinstance(stem, str) for stem in seen) else {}


def doubts(folder: Path, used: Mapping[str, Iterable[str]], images: Mapping[str, Path]) -> list[str]:
    """Sentences on outputs of ``celladapt predict`` that do not belong together, by its notes; what it has no note on is left out.

    Args:
        folder: of the predictions.
        used: stem -> words of ``--save`` whose outputs are looked at.
        images: stem -> the image that lies beside the mask it is compared with, where there is one.
    """
    unfinished, models, others = [], dict[str, str](), []
    for stem, words in used.items():
        found = noted(folder, stem)
        identity = found.get("identity")
        if not isinstance(identity, dict):
            continue
        if set(words) & (set(found.get("begun") or ()) - set(found.get("saved") or ())):
            unfinished.append(stem)
        models.setdefault(repr((identity.get("model"), identity.get("settings"))), stem)
        match identity.get("file"):
            case [str(place), int(size), *_] if stem in images and images[stem].stat().st_size != size:
                others.append((stem, place))
    result = []
    if (folder / RECORD).exists() and not record_of(folder):
        result.append(f"CAUTION: {folder / RECORD} is damaged, so whether these images trained the model is not known.")
    if unfinished:
        result.append(
            f"CAUTION: the last `celladapt predict` did not finish {some(unfinished)}, so what lies there is of an earlier one; give its command again."
        )
    if others:
        stem, place = others[0]
        result.append(
            f"CAUTION: {place} was predicted, and {images[stem]} lies beside the masks ({len(others)} such): two files, so see that these masks are of the same images."
        )
    if len(models) > 1:
        first, second, *_ = models.values()
        result.append(f"CAUTION: these predictions are of {len(models)} models or settings ({first} and {second} differ).")
    return result


def some(stems: Sequence[str]) -> str:
    """The first few of them, and how many more there are."""
    return ", ".join(stems[:_NAMED]) + (f" and {len(stems) - _NAMED} more" if len(stems) > _NAMED else "")


def _stem_of(name: str) -> str:
    """Of the name of an image in the table."""
    return Path(name).stem


@contextmanager
def _held(out: Path) -> Iterator[None]:
    """Several calls, each with a part of the images, may end at once."""
    with ExitStack() as stack:
        try:
            stack.enter_context(alone(out / NOTES))
        except NoLocksError as error:
            say(f"{error} Until then calls that end at the same moment may lose rows of {TABLE}.")
        yield


def _digest(path: Path) -> str:
    with suppress(InputError, OSError):
        return digest(path)
    return ""  # it has gone, or cannot be read any more: of the others it is known


def _as_written(name: str) -> str:
    """As ``files.write_text`` writes a name that is not UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _row(written: Written, seen: bool, settings: Settings, model: Predictor, noted_of_it: Mapping[str, Any]) -> dict[str, Any]:
    size = written.pixel_size
    return {
        "image": _as_written(written.image.name),
        "nuclei": written.nuclei,
        "foreground": f"{written.foreground:.6g}",
        "median_area_px2": f"{written.median_area:.6g}",
        "median_area_um2": "" if size is None else f"{written.median_area * size**2:.6g}",
        "um_per_pixel": "" if size is None else f"{size:.6g}",
        "seen_in_training": "yes" if seen else "no",
        "threshold": settings.threshold,
        "min_size": settings.min_size,
        "model": model.fingerprint,
        "celladapt": noted_of_it.get("celladapt", ""),
        "finished": noted_of_it.get("finished", ""),
    }


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """At least one row, with the columns that somebody has added."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(as_cell, columns))
    writer.writerows([as_cell(row.get(column, "")) for column in columns] for row in rows)
    return text.getvalue()
