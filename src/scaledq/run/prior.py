"""The part of an online run's batches that comes from logs, beside what it does itself.

Every batch has a fixed part of each, half and half unless said otherwise: RLPD's symmetric sampling
(Ball et al., 2023, https://arxiv.org/abs/2302.02948, section 4.1).
"""

from collections.abc import Generator
from dataclasses import replace

import torch

from scaledq.core.batch import Batch, Windows
from scaledq.core.errors import TaskError
from scaledq.core.task import Task
from scaledq.data.loader import Loader


class Prior:
    """What `loader` reads, its tasks numbered as the run's network has them.

    Args:
      loader: of transitions, as many a batch as come from logs.
      known: the names of the network's tasks; those of the loader are among them.
      rows: of each batch.
      stop: updates of the run; the batches of the next ones are read meanwhile.
    """

    def __init__(self, loader: Loader, known: tuple[str, ...], *, rows: int, stop: int) -> None:
        self.loader, self.rows, self._stop = loader, rows, stop
        self._places = torch.tensor([known.index(task.name) for task in loader.tasks])
        self._stream: Generator[Batch | Windows, None, None] | None = None
        self._ahead = -1

    def batch(self, step: int) -> Batch:
        """The logs' rows of update `step`: a function of (seed, step)."""
        if self._stream is None or step != self._ahead:
            self.close()
            self._stream = self.loader.stream(step, max(step + 1, self._stop))
        batch = next(self._stream)
        self._ahead = step + 1
        assert isinstance(batch, Batch), "windows are no transitions"
        return replace(batch, task=self._places[batch.task])

    def others(self, played: tuple[Task, ...]) -> tuple[Task, ...]:
        """The tasks that are learnt from logs only.

        Raises:
          TaskError: one that is played too is another task in the logs, or their frames differ.
        """
        mine = {task.name: task for task in played}
        frame = {"frame_shape": played[0].frame_shape, "frame_dtype": played[0].frame_dtype}
        for task in self.loader.tasks:
            here = mine.get(task.name, replace(task, **frame))
            if here != task:
                raise TaskError(
                    f"the logs are of {task}, and with what is played it should be {here}; take "
                    "logs that were recorded alike, or leave online.prior out"
                )
        return tuple(task for task in self.loader.tasks if task.name not in mine)

    def close(self) -> None:
        """Ends the thread that reads ahead."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
