"""Progress on stderr: a bar with ETA on a terminal, a line now and then elsewhere."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """One line for the person, on stderr."""
    console.print(text, markup=False)


class Bar:
    """``with Bar("training", 500) as bar: bar.step("seg 0.31")``. Silent where ``shown`` is false."""

    def __init__(self, label: str, total: int, done: int = 0, shown: bool = True, every_seconds: float = 30) -> None:
        self.label, self.total, self.done, self.shown, self.every = label, total, done, shown, every_seconds
        self._live = shown and console.is_terminal
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
        self.done += 1
        if self._task is not None:
            self._progress.update(self._task, completed=self.done, note=note)
        elif self.shown and (time.monotonic() - self._said > self.every or self.done == self.total):
            self._said = time.monotonic()
            left = (self._said - self._started) / (self.done - self._first) * (self.total - self.done)
            print(f"{self.label} {self.done}/{self.total}, {left:.0f} s left  {note}", file=sys.stderr, flush=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._progress.stop()
