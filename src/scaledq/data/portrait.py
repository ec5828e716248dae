"""What do a task's frames look like? A few of them, from all over its logs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scaledq.data import zarr
from scaledq.data.store import Log


@dataclass(frozen=True, slots=True)
class Shot:
    """Frames of consecutive rows of one log, from `row` on."""

    log: str
    """Its name."""
    row: int
    frames: np.ndarray
    """[k *frame]"""


def shots(logs: Sequence[Log], count: int, *, length: int = 1) -> tuple[Shot, ...]:
    """`count` stretches of up to `length` rows each, evenly spaced over the logs and their time.

    All reads are issued before the first is waited for. Stretches that would be the same one (a log
    has fewer rows) come once.

    Raises:
      DataError: a damaged frame, naming the log.
    """
    places = {}
    for number in range(count):
        which = number * len(logs) // count
        log = logs[which]
        row = (2 * number + 1) * len(log) // (2 * count)
        start = min(row, max(0, len(log) - length))
        places[which, start] = log.frames[start : min(start + length, len(log))].read()
    found = []
    for (which, start), reading in places.items():
        try:
            found.append(Shot(logs[which].name, start, reading.result()))
        except zarr.FAILURES as error:
            raise logs[which].failure("frames", error) from error
    return tuple(found)
