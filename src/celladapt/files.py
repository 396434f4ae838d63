"""Atomic output: a file is either absent, old or whole."""

import datetime
import errno
import hashlib
import json
import os
import platform
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from celladapt.errors import InputError


def _processes() -> str:
    """Name of the system's list of processes that this one is in: a container has a list of its own, and may have the machine's name."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        return ""


HOST = hashlib.blake2b((platform.node() + _processes()).encode(), digest_size=3).hexdigest()
"""This machine or container, in the names of temporary files."""
TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)-(?P<host>[0-9a-f]{6})\.(?:part|(?P<old>old))(?:\.[^.]*)?", re.DOTALL)
"""The name of what ``atomic`` and ``staged`` write, or have put aside; of which output, and which process of which machine it is."""


def _beside(path: Path, name: str, end: str) -> Path:
    return path.with_name(f".{name}.{os.getpid()}-{HOST}.{end}")


@contextmanager
def atomic(path: Path, previous: Path | None = None) -> Iterator[Path]:
    """Yield a temporary name beside ``path`` (same suffix); on a clean exit it is flushed to disk and renamed to ``path``.

    Args:
        path: file to write.
        previous: name that an existing ``path`` gets, once the new one is safe on the disk, instead of being replaced.

    Raises:
        InputError: the folder or the file cannot be written, or the disk is full.
    """
    path = Path(path)
    # The suffix stays last because image writers choose the format by it.
    temporary = _beside(path, path.stem, f"part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()  # a folder that cannot be written shows here, whatever error the writer would make of it
        mode = stat.S_IMODE(temporary.stat().st_mode)
        try:
            yield temporary
            with open(temporary, "r+b") as handle:  # Windows flushes only what may be written to
                os.fsync(handle.fileno())
            os.chmod(temporary, mode)  # some writers make private files, which colleagues could not read
            if previous is not None and path.exists():
                os.replace(path, previous)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        if error.errno is None:  # not the system's: a writer that cannot hold these data
            raise
        cure = "shorten the name" if error.errno == errno.ENAMETOOLONG else "choose another output folder or change its permissions"
        raise InputError(f"{path} cannot be written ({error.strerror}); {cure}.") from error


@contextmanager
def staged(out: Path, replace: bool = False) -> Iterator[Path]:
    """A folder on the disk of ``out`` that becomes ``out`` on a clean exit and is gone on any other.

    Args:
        out: folder to make; an empty one is filled.
        replace: whether one that is not empty may be replaced; it is there until the new one is whole.

    Raises:
        InputError: ``out`` cannot be written, or the disk is full.
    """
    target = Path(os.path.realpath(out))
    fill = target.is_dir() and not replace  # and not exchange: it may be a disk of its own, or where somebody's shell is
    staging, before = (_beside(target / target.name if fill else target, target.name, end) for end in ("part", "old"))
    try:
        try:
            shutil.rmtree(staging, ignore_errors=True)  # of a killed process that had our number, as in a container
            staging.mkdir(parents=True)
            yield staging
            if fill:
                if any(not TEMPORARY.fullmatch(item.name) for item in target.iterdir()):
                    raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
                for item in list(staging.iterdir()):
                    os.replace(item, target / item.name)
            else:
                if target.exists():
                    os.replace(target, before)
                os.replace(staging, target)
        finally:
            if before.exists() and not target.exists():  # the new one could not take its place
                os.replace(before, target)
            for folder in (staging, before):
                shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror}); choose another folder, free space or change its permissions.") from error


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically; of a file name that is not UTF-8 the strange bytes are written as ``\\udcXX``."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def now() -> str:
    """This moment as ISO 8601 in UTC, for records."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
