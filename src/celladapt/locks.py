"""Who works on a folder: one process at a time; what a killed one left half-written there is removed."""

import json
import os
import platform
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from celladapt.errors import InputError
from celladapt.files import now, write_json

LOCK, HOLDER = ".lock", ".lock.json"
"""Files in a folder that a process holds: what the system locks, and who holds it."""
PATIENCE = 15.0
"""Seconds to wait for a process that is about to stop."""
_TEMPORARY = re.compile(r"\..+\.(\d+)\.(?:part|old)(?:\.[^.]*)?", re.DOTALL)


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
            with suppress(OSError):  # where the folder may no longer be written to, a note of nobody does no harm
                (folder / HOLDER).unlink()
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
