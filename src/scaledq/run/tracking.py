"""How a run is followed from outside: what it writes to metrics.jsonl is sent on, by a thread.

Training writes a file and knows nothing more. A tracker that is slow, refuses or dies costs a line
of warning; what it missed is in the file, and is sent when it is back, or when the run goes on.
"""

import json
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, runtime_checkable
from typing import Protocol as Interface

from scaledq.core.files import write_atomic
from scaledq.run.signals import Interrupted

NOTES = "tracking.json"
"""In the run's folder: what each tracker calls this run, and the last step that it has."""
PAUSE, RETRY, PATIENCE = 2.0, 30.0, 10.0
"""Seconds between two looks at the file, after a failure, and that a run's end waits for them."""

Ending = Literal["finished", "stopped", "failed"]


@runtime_checkable
class Tracker(Interface):
    """A service that keeps what runs say. Whatever its methods raise, training goes on."""

    name: str

    def begin(self, known: str) -> tuple[str, int]:
        """Opens its record of the run: the one called `known`, or a new one if that is empty.

        Returns:
          What it calls the record, and the last step in it; -1 if it has none or cannot say.
        """
        ...

    def send(self, rows: Sequence[Mapping[str, int | float]]) -> None:
        """Adds rows, each with its `step`, in order."""
        ...

    def end(self, ending: Ending) -> None:
        """Closes the record; it can be opened again."""
        ...


class Follower:
    """Sends one run's rows to one tracker, from a thread of its own."""

    def __init__(self, tracker: Tracker, metrics: Path) -> None:
        self.tracker, self.metrics = tracker, metrics
        self.last = -1
        """The last step that the tracker has."""
        self._id, self._at, self._complained = "", 0, False
        self._ending: Ending | None = None
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._work, name=tracker.name, daemon=True)
        self._thread.start()

    def close(self, ending: Ending, *, deadline: float) -> None:
        """Sends what is left, until `deadline` (of `time.monotonic`); says what it could not."""
        self._ending = ending
        self._woken.set()
        self._thread.join(timeout=max(0.0, deadline - time.monotonic()))
        left = sum(row["step"] > self.last for row in self._rows()[0])
        if left or self._thread.is_alive():
            self._say(f"{left} rows were not sent; {self.metrics} has them")

    def _work(self) -> None:
        while True:
            ending = self._ending
            try:
                self._send()
                if ending:
                    self.tracker.end(ending)
            except Exception as fault:  # Whatever a service and its library can come up with.
                if not self._complained:
                    reason = " ".join(str(fault).split())[:200]
                    self._say(f"{type(fault).__name__}: {reason}; the run goes on without it")
                self._complained = True
            else:
                if self._complained:
                    self._say("is back, and has every row so far")
                self._complained = False
            if ending:
                return
            self._woken.wait(RETRY if self._complained else PAUSE)

    def _send(self) -> None:
        if not self._id:
            noted = _notes(self.metrics.parent).get(self.tracker.name, {"id": "", "step": -1})
            self._id, has = self.tracker.begin(noted["id"])
            self.last = max(has, noted["step"]) if self._id == noted["id"] else has
            self._note()
        rows, at = self._rows()
        fresh = [row for row in rows if row["step"] > self.last]
        if fresh:
            self.tracker.send(fresh)
            self.last = int(fresh[-1]["step"])
            self._note()
        self._at = at

    def _note(self) -> None:
        folder, note = self.metrics.parent, {"id": self._id, "step": self.last}
        with _NOTING:
            notes = _notes(folder) | {self.tracker.name: note}
            write_atomic(folder / NOTES, json.dumps(notes, indent=2) + "\n")

    def _rows(self) -> tuple[list[dict[str, int | float]], int]:
        """The rows from where the last ones ended, and where these end: whole lines only."""
        if not self.metrics.exists():
            return [], self._at
        with self.metrics.open("rb") as file:
            file.seek(self._at)
            lines = file.read().rpartition(b"\n")[0]
        if not lines:
            return [], self._at
        return [numbers(json.loads(line)) for line in lines.splitlines()], self._at + len(lines) + 1

    def _say(self, what: str) -> None:
        print(f"{self.metrics.parent.name}: {self.tracker.name}: {what}", file=sys.stderr)


_NOTING = threading.Lock()


def _notes(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / NOTES
    return json.loads(path.read_text()) if path.exists() else {}


def numbers(row: Mapping[str, Any]) -> dict[str, int | float]:
    """A row's numbers by dotted name; what is no number is left out."""
    out: dict[str, int | float] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            out |= {f"{name}.{inner}": x for inner, x in numbers(value).items()}
        elif isinstance(value, int | float):
            out[name] = value
    return out


class Tracking:
    """Follows a run while it works; a context manager. Made, it has not begun anything."""

    def __init__(self, trackers: Sequence[Tracker], metrics: Path) -> None:
        self.trackers, self.metrics = trackers, metrics
        self._followers: list[Follower] = []

    def __enter__(self) -> "Tracking":
        self._followers = [Follower(tracker, self.metrics) for tracker in self.trackers]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: object, trace: TracebackType | None
    ) -> None:
        ending: Ending = "finished"
        if kind is not None:
            ending = "stopped" if issubclass(kind, Interrupted | KeyboardInterrupt) else "failed"
        deadline = time.monotonic() + PATIENCE
        for follower in self._followers:
            follower.close(ending, deadline=deadline)
