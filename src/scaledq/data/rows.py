"""What a row of a log may be: the columns beside the frame, and what is refused."""

import numpy as np

from scaledq.core.errors import DataError
from scaledq.core.task import Task

COLUMNS = {"action": "int16", "reward": "float32", "terminated": "bool", "truncated": "bool"}
CLOSING = -1
"""The action of a row that only holds the closing observation of an episode."""


def check(
    task: Task, frames: np.ndarray, columns: dict[str, np.ndarray], *, where: str, first: int
) -> dict[str, np.ndarray]:
    """The columns in their stored dtypes, once k rows are known to fit the task.

    Args:
      frames: [k *frame].
      columns: [k] each, named as in COLUMNS.
      where: the log, for the message; first: the number of the first row, likewise.

    Raises:
      DataError: a wrong shape or dtype, lengths that disagree, an action outside [-1, A), a reward
        that is not finite, or a closing row with a reward or an end.
    """
    if frames.shape[1:] != task.frame_shape or frames.dtype != task.frame_dtype:
        raise DataError(
            f"{where}: a frame should be {task.frame_dtype} {task.frame_shape}, "
            f"got {frames.dtype} {frames.shape[1:]}"
        )
    for name, dtype in COLUMNS.items():
        values = columns[name]
        if values.shape != frames.shape[:1]:
            raise DataError(
                f"{where}: {len(frames)} frames but {name} has shape {values.shape}; "
                f"need [{len(frames)}]"
            )
        if not np.can_cast(values.dtype, dtype, "same_kind"):
            raise DataError(f"{where}: {name} should be {dtype}, got {values.dtype}")
    for fault, bad in _faults(task, **columns).items():
        if bad.any():
            row = int(bad.argmax())
            values = ", ".join(f"{name} {column[row]}" for name, column in columns.items())
            raise DataError(f"{where}: row {first + row} has {fault} ({values})")
    return {name: columns[name].astype(dtype) for name, dtype in COLUMNS.items()}


def _faults(
    task: Task,
    action: np.ndarray,
    reward: np.ndarray,
    terminated: np.ndarray,
    truncated: np.ndarray,
) -> dict[str, np.ndarray]:
    closing = action == CLOSING
    return {
        f"an action outside [-1, {task.actions})": (action < CLOSING) | (action >= task.actions),
        "a reward that is not finite": ~np.isfinite(reward),
        "no action but a reward": closing & (reward != 0),
        "no action but an end": closing & (terminated | truncated),
    }
