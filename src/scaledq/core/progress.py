"""How long work is shown: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

FIRST, EVERY = 2.0, 15.0
"""Seconds: work shorter than FIRST prints nothing where there is no terminal."""


class Progress:
    """Tells how far `label` has come, on standard error; a context manager."""

    def __init__(self, label: str, total: int):
        self.label, self.total = label, total
        self.started = time.monotonic()
        self._said = self.started - EVERY + FIRST
        console = Console(stderr=True)
        self._bar = _bar(console) if console.is_terminal else None
        self._line = self._bar.add_task(label, total=total, note="") if self._bar else None

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *fault: object) -> None:
        if self._bar:
            self._bar.stop()

    def show(self, done: int, note: str = "") -> None:
        """Says that `done` of the total are done, with a short remark."""
        if self._bar and self._line is not None:
            self._bar.update(self._line, completed=done, note=note)
            return
        now = time.monotonic()
        if now - self._said >= EVERY or (done == self.total and now - self.started >= FIRST):
            self._said = now
            text = f"{self.label}: {done:,} of {self.total:,} ({done / max(self.total, 1):.0%})"
            print(f"{text}  {note}".rstrip(), file=sys.stderr, flush=True)


def _bar(console: Console) -> RichProgress:
    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )
