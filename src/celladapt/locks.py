"""Who works on a folder: one process at a time; what a killed one left half-written there is removed."""

import os
import platform
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from celladapt.errors import InputError
from celladapt.files import HOST, TEMPORARY, now, write_json
from celladapt.records import read_json

LOCK, HOLDER = ".lock", ".lock.json"
"""Files in a folder that a process holds: what the system locks, and who holds it."""
PATIENCE = 15.0
"""Seconds to wait for a process that is about to stop."""
_DAY = 86_400.0


class NoLocksError(InputError):
    """A folder whose disk has no locks."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder, so that two processes never carry out one run at a time; the system lets go of it when the process ends, however it ends.

    Beside the lock, a hidden file in ``folder``, another one says who holds it. One that was killed leaves that note, and perhaps half-written files, which are removed.

    Args:
        folder: an existing folder.

    Raises:
        NoLocksError: its disk has no locks.
        InputError: another process holds it, still after ``PATIENCE`` seconds.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise InputError(_refusal(folder)) from None
    except (OSError, NotImplementedError) as error:  # a network drive without locks, or no permission
        reason = getattr(error, "strerror", None) or error
        raise NoLocksError(f"{folder} cannot be locked ({reason}); choose a folder on a disk of this machine, or change its permissions.") from None
    try:
        before = _holder(folder)
        # By number, too, since in a container the process that was killed may have had this one's.
        sweep(_hidden_in(folder), (before.get("container"), before.get("pid")))
        write_json(folder / HOLDER, {"pid": os.getpid(), "host": platform.node(), "container": HOST, "since": now()})
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
        return read_json(folder / HOLDER)
    except InputError:
        return {}


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


def _hidden_in(folder: Path) -> Iterator[Path]:
    """Hidden files and folders below ``folder``; what another process removes meanwhile is passed over, which ``rglob`` does from Python 3.13 on."""
    for where, folders, files in os.walk(folder):
        yield from (Path(where) / name for name in (*folders, *files) if name.startswith("."))


def sweep(paths: Iterable[Path], gone: tuple[Any, Any] = (None, None)) -> None:
    """Of ``paths`` remove what killed writers have left half-written; what one of them had put aside, and not yet replaced, is put back.

    Told by its name (``files.TEMPORARY``): of a process that this machine does not know, or of one of another machine, whose processes cannot be seen,
    untouched for a day.

    Args:
        paths: files and folders of any name.
        gone: a process that is known to have ended: ``files.HOST`` where it ran, and its number.
    """
    for path in list(paths):
        found = TEMPORARY.fullmatch(path.name)
        if found is None:
            continue
        pid = int(found["pid"])
        dead = (found["host"], pid) == gone or (not _runs(pid) if found["host"] == HOST else _age(path) > _DAY)
        with suppress(OSError):
            if dead and found["old"] and not path.with_name(found["name"]).exists():
                path.rename(path.with_name(found["name"]))
            elif dead and path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif dead:
                path.unlink()


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
