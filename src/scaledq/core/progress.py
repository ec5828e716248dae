"""How long work is shown: a bar on a terminal, a plain line now and then elsewhere.

Work of many parts also shows how each of them fares, in columns below.
"""

import sys
import time
from collections.abc import Callable, Sequence

from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

FIRST, EVERY = 2.0, 15.0
"""Seconds: work shorter than FIRST prints nothing where there is no terminal."""


class Progress:
    """Tells how far `label` has come, on standard error; a context manager.

    Args:
      parts: says, whenever it is asked, how each part of the work fares.
    """

    def __init__(self, label: str, total: int, *, parts: Callable[[], Sequence[str]] = tuple):
        self.label, self.total, self.parts = label, total, parts
        self.started = time.monotonic()
        self._said = self.started - EVERY + FIRST
        self._console = Console(stderr=True)
        self._bar = _bar(self._console) if self._console.is_terminal else None
        self._live = Live(console=self._console, get_renderable=self._picture)
        self._line = self._bar.add_task(label, total=total, note="") if self._bar else None

    def __enter__(self) -> "Progress":
        if self._bar:
            self._live.start()
        return self

    def __exit__(self, *fault: object) -> None:
        if self._bar:
            self._live.stop()

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
            if self.parts():
                self._console.print(self._columns())

    def _picture(self) -> Group:
        return Group(*filter(None, [self._bar]), self._columns())

    def _columns(self) -> Columns:
        return Columns([Text(part) for part in self.parts()], equal=True, padding=(0, 3))


def _bar(console: Console) -> RichProgress:
    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )
