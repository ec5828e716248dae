"""The columns of many logs in memory, end to end, so that one index reaches any row of any task."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from scaledq.data.rows import flags
from scaledq.data.store import Log

THREADS = 4
"""Logs whose columns are read at once."""
Piece = tuple[Log, int, int]
"""Rows start..stop-1 of a log: all that a view lets a run see of it."""


@dataclass(frozen=True, slots=True)
class Columns:
    """R rows of several pieces of logs: 7 bytes a row. No episode crosses from piece to piece."""

    pieces: tuple[Piece, ...]
    offsets: np.ndarray
    """int64 [pieces + 1]: piece p holds rows offsets[p]..offsets[p + 1]-1."""
    action: np.ndarray
    """int16 [R]"""
    reward: np.ndarray
    """float32 [R], raw"""
    flags: np.ndarray
    """uint8 [R], bits as in rows.flags"""

    @classmethod
    def load(cls, pieces: Sequence[Piece]) -> "Columns":
        """Reads the columns of every piece; raises DataError naming a log that is damaged."""
        offsets = np.cumsum([0, *(stop - start for _, start, stop in pieces)])
        rows = int(offsets[-1])
        columns = cls(
            tuple(pieces),
            offsets,
            action=np.empty(rows, np.int16),
            reward=np.empty(rows, np.float32),
            flags=np.empty(rows, np.uint8),
        )
        with ThreadPoolExecutor(THREADS) as together:
            list(together.map(columns._fill, range(len(pieces))))
        return columns

    def _fill(self, number: int) -> None:
        """Reads one piece into its place."""
        log, start, stop = self.pieces[number]
        here = slice(self.offsets[number], self.offsets[number + 1])
        self.action[here] = log.read("action", start, stop)
        self.reward[here] = log.read("reward", start, stop)
        ends = (log.read(name, start, stop) for name in ("terminated", "truncated"))
        self.flags[here] = flags(self.action[here], *ends)

    def __len__(self) -> int:
        return len(self.action)

    def locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The piece of each row [B], and the row's number in its log [B]."""
        piece = np.searchsorted(self.offsets, rows, side="right") - 1
        starts = np.array([start for _, start, _ in self.pieces])
        return piece, rows - self.offsets[piece] + starts[piece]
