"""Progress on stderr: a bar with ETA on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False, soft_wrap=True)

_EVERY = 30  # seconds
_listener: Callable[[int], None] | None = None


def say(text: str) -> None:
    """One line for the person, on stderr."""
    console.print(text, markup=False)


def listen(listener: Callable[[int], None]) -> None:
    """From now on tell ``listener`` how much each bar has done, instead of showing it: for a process that works for another one."""
    global _listener
    _listener = listener


class Bar:
    """``with Bar("training", 500) as bar: bar.step("seg 0.31")``. Silent where ``shown`` is false."""

    def __init__(self, label: str, total: int, done: int = 0, shown: bool = True) -> None:
        self.label, self.total, self.done, self.shown = label, total, done, shown and _listener is None
        self._live = self.shown and console.is_terminal
        self._started, self._first, self._said = time.monotonic(), done, time.monotonic()
        self._task: TaskID | None = None
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn())
        self._progress = Progress(*columns, TextColumn("{task.fields[note]}"), console=console, refresh_per_second=4)

    def __enter__(self) -> "Bar":
        if self._live:
            self._progress.start()
            self._task = self._progress.add_task(self.label, total=self.total, completed=self.done, note="")
        return self

    def step(self, note: str = "") -> None:
        """One more is done; ``note`` is shown beside the bar."""
        self.move(self.done + 1, note)

    def more(self, count: int) -> None:
        """There is more to do than was known."""
        self.total += count
        if self._task is not None:
            self._progress.update(self._task, total=self.total)

    def move(self, done: int, note: str = "") -> None:
        """``done`` of the total are done; ``note`` is shown beside the bar."""
        self.done = done
        if _listener is not None:
            _listener(done)
        elif self._task is not None:
            self._progress.update(self._task, completed=done, note=note)
        elif self.shown and (time.monotonic() - self._said > _EVERY or done == self.total):
            self._said = time.monotonic()
            left = (self._said - self._started) / max(1, done - self._first) * (self.total - done)
            print(f"{self.label} {done}/{self.total}, {left:.0f} s left  {note}", file=sys.stderr, flush=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._progress.stop()
