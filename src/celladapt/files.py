"""Atomic output: a file is either absent, old or whole."""

import datetime
import errno
import json
import os
import platform
import re
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from celladapt.errors import InputError

LOCK, HOLDER = ".lock", ".lock.json"
"""Files in a folder that a process holds: what the system locks, and who holds it."""
PATIENCE = 15.0
"""Seconds to wait for a process that is about to stop."""
_TEMPORARY = re.compile(r"\..+\.(\d+)\.(?:part|old)(?:\.[^.]*)?", re.DOTALL)
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
        cure = "shorten the name" if error.errno == errno.ENAMETOOLONG else "choose another output folder or change its permissions"
        raise InputError(f"{path} cannot be written ({error.strerror}); {cure}.") from error


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
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder, so that two processes never carry out one run at a time; the system lets go of it when the process ends, however it ends.

    Beside the lock, a hidden file in ``folder``, another one says who holds it. One that was killed leaves that note, and perhaps half-written files, which are removed.

    Args:
        folder: an existing folder.

    Raises:
        InputError: another process holds it, still after ``PATIENCE`` seconds; or its disk has no locks.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise InputError(_refusal(folder)) from None
    except (OSError, NotImplementedError) as error:  # a network drive without locks, or no permission
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{folder} cannot be locked ({reason}); choose a folder on a disk of this machine, or change its permissions.") from None
    try:
        before = _holder(folder)
        if before.get("host") == platform.node() and isinstance(before.get("pid"), int):
            _remove(path for path in folder.rglob(".*") if _writer(path) == before["pid"])
        write_json(folder / HOLDER, {"pid": os.getpid(), "host": platform.node(), "since": now()})
        try:
            yield
        finally:
            (folder / HOLDER).unlink(missing_ok=True)
    finally:
        lock.release()


def _holder(folder: Path) -> dict[str, Any]:
    """Who holds a folder, or held it until killed: ``pid``, ``host``, ``since``; empty where nobody is known to."""
    try:
        holder = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _refusal(folder: Path) -> str:
    holder = _holder(folder)
    pid, host, since = (holder.get(name) for name in ("pid", "host", "since"))
    if not isinstance(pid, int):
        return f"Another process is working on {folder}; wait until it has ended, or stop it."
    if host != platform.node():
        return (
            f"Another process is working on {folder} ({pid} on {host}, since {since}); wait until it has ended, or stop it there. "
            f"If {host} was switched off or knows no such process, delete {folder / LOCK} and try again."
        )
    if not _runs(pid):
        return (
            f"{folder} is locked by process {pid}, since {since}, which this machine no longer knows. "
            f"If it does not run in a container either, delete {folder / LOCK} and try again."
        )
    return f"Another process is working on {folder} ({pid} on this machine, since {since}); wait until it has ended, or stop it."


def sweep(folder: Path) -> None:
    """Remove what writers that were killed have left half-written in ``folder``: of processes that this machine does not know, untouched for an hour.

    The hour is for other machines that write to the same drive, and whose processes cannot be seen.
    """
    if folder.is_dir():
        found = ((path, _writer(path)) for path in folder.glob(".*"))
        _remove(path for path, pid in found if pid is not None and not _runs(pid) and _age(path) > 3600)


def _writer(path: Path) -> int | None:
    """The process whose temporary file or folder, of ``atomic`` or ``staged``, ``path`` is by its name."""
    found = _TEMPORARY.fullmatch(path.name)
    return int(found[1]) if found else None


def _runs(pid: int) -> bool:
    """Whether this machine has a process ``pid``; where that cannot be asked without harm, yes."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


def _age(path: Path) -> float:
    """Seconds since a file, or anything in a folder, was written to; 0 where it has gone."""
    try:
        return time.time() - max(item.stat().st_mtime for item in (path, *path.rglob("*")))
    except OSError:
        return 0.0


def _remove(paths: Iterable[Path]) -> None:
    for path in list(paths):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()


def read_text(path: Path, cure: str) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Args:
        path: the file.
        cure: what to do where it cannot be read, the end of the sentence.

    Raises:
        InputError: it is missing, not a file, or unreadable.
        UnicodeDecodeError: it is not UTF-8.
    """
    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait without end
            raise InputError(f"{path} is not a file; {cure}.")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); {cure}.") from None


def read_json(path: Path, cure: str = "restore it from a copy") -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        InputError: as ``read_text``; or it is damaged, or holds something else than an object.
    """
    try:
        value = json.loads(read_text(path, cure))
    except InputError:
        raise
    except (ValueError, RecursionError):
        raise InputError(f"{path} is damaged; {cure}.") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} is damaged (it holds no JSON object); {cure}.")
    return value


def read_json_lines(path: Path) -> list[Any]:
    """The values in a file of JSON lines; damaged lines, as a kill leaves the last one, are left out, and an unreadable file has none."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    except OSError:
        return []
    values = []
    for line in lines:
        with suppress(ValueError, RecursionError):
            values.append(json.loads(line))
    return values


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically; of a file name that is not UTF-8 the strange bytes are written as ``\\udcXX``."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


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
