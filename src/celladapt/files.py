"""Atomic output: a file is either absent, old or whole."""

import datetime
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from celladapt.errors import InputError

_FORMULA = tuple("=+-@\t\n＝＋－＠")  # the wide ones in Japanese and Chinese Excel


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path`` (same suffix); on a clean exit it is flushed to disk and renamed to ``path``.

    Raises:
        InputError: the folder or the file cannot be written, or the disk is full.
    """
    path = Path(path)
    # The suffix stays last because image writers choose the format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()  # a folder that cannot be written shows here, whatever error the writer would make of it
        mode = stat.S_IMODE(temporary.stat().st_mode)
        try:
            yield temporary
            with open(temporary, "rb") as handle:
                os.fsync(handle.fileno())
            os.chmod(temporary, mode)  # some writers make private files, which colleagues could not read
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        if error.errno is None:  # not the system's: a writer that cannot hold these data
            raise
        raise InputError(f"{path} cannot be written ({error.strerror}); choose another output folder or change its permissions.") from error


@contextmanager
def staged(out: Path, replace: bool = False) -> Iterator[Path]:
    """A folder beside ``out``, on its disk, that becomes ``out`` on a clean exit and is gone on any other.

    Args:
        out: folder to make; an empty one is taken.
        replace: whether one that is not empty may be replaced; it is there until the new one is whole.

    Raises:
        InputError: ``out`` cannot be written, or the disk is full.
    """
    target = out.absolute()
    staging, before = (target.with_name(f".{target.name}.{os.getpid()}.{end}") for end in ("part", "old"))
    try:
        try:
            staging.mkdir(parents=True)
            yield staging
            if target.exists():
                os.replace(target, before) if replace else target.rmdir()
            os.replace(staging, target)
        finally:
            for folder in (staging, before):
                shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}); choose another --out, free space or change its permissions.") from error


@contextmanager
def alone(folder: Path, patience: float = 15) -> Iterator[None]:
    """Hold a folder, so that two processes never carry out one run at a time; the system lets go of it when the process ends, however it ends.

    Args:
        folder: an existing folder; a hidden file in it is the lock.
        patience: seconds to wait for a process that is about to stop.

    Raises:
        InputError: another process holds it.
    """
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        raise InputError(f"Another process is working on {folder}; wait until it has ended, or stop it.") from None
    try:
        yield
    finally:
        lock.release()


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def as_cell(text: str) -> str:
    """A text from outside as a cell of a CSV file: where a spreadsheet would take it for a formula, an apostrophe goes before it; numbers stay.

    ``of_cell`` takes it off again. A carriage return, which the csv module does not quote, becomes a space.
    """
    text = text.replace("\r", " ")
    try:
        float(text)
    except ValueError:
        return f"'{text}" if text.startswith(_FORMULA) else text
    return text


def of_cell(text: str) -> str:
    """What ``as_cell`` was given."""
    return text[1:] if text.startswith("'") and text[1:].startswith(_FORMULA) else text


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def now() -> str:
    """This moment as ISO 8601 in UTC, for records."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
