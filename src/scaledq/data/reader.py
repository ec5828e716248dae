"""What lies between a sampler and a batch: which frames are read, and where they go.

A config that says how rows become training samples has a `reader(columns)`; the loader asks that
reader to plan a batch, reads the frames, and hands them back. Shapes: B batch, K frames of a row.
"""

from dataclasses import dataclass
from typing import Protocol as Interface

import numpy as np

from scaledq.core.batch import Batch, Windows
from scaledq.data.windows import Runs


@dataclass(frozen=True, slots=True)
class Plan:
    """A batch whose frames are still to be read."""

    numbers: dict[str, np.ndarray]
    """[B ...] by name: all of the batch but its frames."""
    runs: Runs
    held: int
    """K"""


class Reader(Interface):
    """How rows of the columns become samples."""

    @property
    def choosable(self) -> np.ndarray | None:
        """bool [R]: the rows that may be drawn; None for every one that a view leaves."""
        ...

    @property
    def lacking(self) -> str:
        """What rows lack that may not be drawn, for the message where none is left."""
        ...

    def plan(self, task: np.ndarray, rows: np.ndarray, draws: np.ndarray) -> Plan:
        """The batch of `rows` [B] of tasks `task` [B].

        Args:
          draws: int64 [B] random numbers below 2**62, one for each row.
        """
        ...

    def batch(self, frames: np.ndarray, numbers: dict[str, np.ndarray]) -> Batch | Windows:
        """Puts the batch together; frames [B K *frame]."""
        ...
