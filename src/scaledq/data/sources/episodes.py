"""Where episodes end, in rows that come a block at a time."""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from scaledq.data.rows import CLOSING
from scaledq.data.sources.piece import Rows


class Ends:
    """Marks the last row of each episode where only a change of its id tells of it.

    One row is held back, because only the row after it says whether it was the last.

    Args:
      by_id: which of the two ends such an end is.
    """

    def __init__(self, *, by_id: Literal["terminated", "truncated"]):
        self._by_id = by_id
        self._held: tuple[Rows, np.ndarray | None] | None = None
        self._fresh = True

    def add(self, rows: Rows, episode: np.ndarray | None) -> Iterator[tuple[Rows, np.ndarray]]:
        """Takes the next rows and their ids [k], if there are any; see `_settled`."""
        if not len(rows.action):
            return
        if self._held is not None:
            before, last = self._held
            changed = last is not None and episode is not None and bool(last[-1] != episode[0])
            yield self._settled(before, np.array([changed]))
        split = len(rows.action) - 1
        if split:
            front = Rows(*(column[:split] for column in rows))
            changes = np.zeros(split, bool) if episode is None else episode[:-1] != episode[1:]
            yield self._settled(front, changes)
        last_id = None if episode is None else episode[-1:]
        self._held = (Rows(*(column[split:] for column in rows)), last_id)

    def close(self) -> Iterator[tuple[Rows, np.ndarray]]:
        """Hands out the last row; the end of the data ends an episode that has an id."""
        if self._held is not None:
            rows, episode = self._held
            yield self._settled(rows, np.array([episode is not None]))

    def _settled(self, rows: Rows, last: np.ndarray) -> tuple[Rows, np.ndarray]:
        """Rows with their ends, and bool [k]: an episode starts with the row."""
        ended = rows.terminated | rows.truncated
        closing = rows.action == CLOSING
        found = last & ~ended & ~closing
        flags = rows._replace(**{self._by_id: getattr(rows, self._by_id) | found})
        over = ended | closing | last
        fresh = np.concatenate([[self._fresh], over[:-1]]) & ~closing
        self._fresh = bool(over[-1])
        return flags, fresh
