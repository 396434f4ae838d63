"""Functions in processes of their own, without the seconds that importing torch takes: each is forked from a server that has imported it."""

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

PRELOADED = ["torch.utils.tensorboard", "celladapt.worker", "celladapt.cli", "celladapt.benchmarking", "celladapt.reporting", "skimage.measure"]


class Ended(NamedTuple):
    """How a child ended, as `subprocess.CompletedProcess` says it."""

    returncode: int
    stdout: str
    stderr: str


class Child:
    """``function(*arguments)`` in a process of its own, which exits with what it returns; files of ``folder`` take what it prints."""

    def __init__(self, folder: Path, function: Callable[..., int | None], *arguments: Any, **environment: str) -> None:
        if "forkserver" not in multiprocessing.get_all_start_methods():
            pytest.skip("this system has no server to fork processes from")
        server = multiprocessing.get_context("forkserver")
        server.set_forkserver_preload(PRELOADED)
        self._printed = [Path(folder, f"child-{os.getpid()}-{id(self)}.{stream}") for stream in ("out", "err")]
        whole = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        self.process = server.Process(target=_carry_out, args=(function, arguments, whole, *self._printed))
        self.process.start()

    def ended(self) -> Ended:
        """Wait for its end."""
        self.process.join(120)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            pytest.fail("it had not ended within two minutes, and was killed")
        return Ended(self.process.exitcode, *(path.read_text(encoding="utf-8") for path in self._printed))


def _carry_out(function: Callable[..., int | None], arguments: tuple[Any, ...], environment: Mapping[str, str], out: Path, err: Path) -> None:
    import torch
    from conftest import leave_out_charts

    leave_out_charts(setattr)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(out, "w", encoding="utf-8", buffering=1))))
        stack.enter_context(contextlib.redirect_stderr(stack.enter_context(open(err, "w", encoding="utf-8", buffering=1))))
        code = function(*arguments)
    sys.exit(code or 0)
