"""What a run writes while it trains: loss terms and validation scores, as JSON lines and for TensorBoard."""

import json
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from celladapt.errors import InputError
from celladapt.files import write_text
from celladapt.records import read_json_lines

MOST_LOGGED = 10_000
"""About how many steps' terms a run writes, whatever its length: more than a curve has pixels."""


class Log:
    """``log.jsonl``, ``validation.jsonl`` and TensorBoard events, cut back to ``step`` where a killed run went on past its checkpoint.

    Of a run of more than ``MOST_LOGGED`` steps the terms of each n-th are written, and of the first and the last: which ones depends on ``steps``
    alone, so a resumed run writes what it would have written.
    """

    def __init__(self, path: Path, step: int, steps: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self._path = path
        self._every, self._last = math.ceil(steps / MOST_LOGGED), steps
        with self._on_disk():
            self._terms, self._scores = (self._reopen(path / f"{name}.jsonl", step) for name in ("log", "validation"))
            self._events = SummaryWriter(str(path / "events"), purge_step=step + 1 if step else None)

    @staticmethod
    def _reopen(file: Path, step: int) -> IO[str]:
        lines = [line for line in read_json_lines(file) if isinstance(line, dict) and isinstance(line.get("step"), int) and line["step"] <= step]
        write_text(file, "".join(json.dumps(line) + "\n" for line in lines))
        return file.open("a", encoding="utf-8")

    def terms(self, step: int, values: dict[str, float]) -> None:
        """One training step's loss terms, if it is among those to be written."""
        if step % self._every == 0 or step in (1, self._last):
            self._write(self._terms, "train", step, values)

    def scores(self, step: int, values: dict[str, float]) -> None:
        """One validation's scores."""
        self._write(self._scores, "validation", step, values)
        self.flush()

    def _write(self, handle: IO[str], group: str, step: int, values: dict[str, float]) -> None:
        with self._on_disk():
            handle.write(json.dumps({"step": step, **values}) + "\n")
            for name, value in values.items():
                self._events.add_scalar(f"{group}/{name}", value, step)

    def flush(self) -> None:
        """Bring everything to disk.

        Raises:
            InputError: it is full, or gone.
        """
        with self._on_disk():
            for handle in (self._terms, self._scores, self._events):
                handle.flush()

    @contextmanager
    def _on_disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"The logs in {self._path} cannot be written ({error.strerror or error}); free space or mend the disk, and go on."
            ) from error

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *exception: object) -> None:
        with self._on_disk(), ExitStack() as stack:
            for handle in (self._terms, self._scores, self._events):
                stack.callback(handle.close)
