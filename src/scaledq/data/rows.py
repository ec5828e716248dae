"""What a row of a log may be, which rows are transitions, and where episodes start."""

import numpy as np

from scaledq.core.errors import DataError
from scaledq.core.task import Task

COLUMNS = {"action": "int16", "reward": "float32", "terminated": "bool", "truncated": "bool"}
CLOSING = -1
"""The action of a row that only holds the closing observation of an episode."""

USABLE, START, ENDED, TERMINATED = 1, 2, 4, 8
"""The bits of `flags`."""


def flags(action: np.ndarray, terminated: np.ndarray, truncated: np.ndarray) -> np.ndarray:
    """What each row of a log (or of a contiguous piece of one) is, as bits: uint8 [T].

    USABLE: the row is a transition: it has an action, and either its episode terminated with it or
    the observation that followed is known. That is the next row, unless the row was truncated: then
    only a closing row counts. So a truncated row (or a joint) without a closing row is not usable,
    nor is the last row without an end, nor a closing row.
    START: the first row of an episode: the first of all, and each after a closing row or after an
    ended row that has no closing row.
    """
    closing = action == CLOSING
    ended = terminated | truncated
    closed = np.append(closing[1:], np.False_)
    followed = np.ones_like(closing)
    followed[-1:] = False
    usable = ~closing & (terminated | (followed & (~truncated | closed)))
    start = np.ones_like(closing)
    start[1:] = (closing | (ended & ~closed))[:-1]
    bits = np.zeros(len(action), np.uint8)
    for bit, where in ((USABLE, usable), (START, start), (ENDED, ended), (TERMINATED, terminated)):
        bits |= where.view(np.uint8) * np.uint8(bit)
    return bits


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
    finite = np.isfinite(reward)
    return {
        f"an action outside [-1, {task.actions})": (action < CLOSING) | (action >= task.actions),
        "a reward that is not a finite float32": ~finite | (np.abs(reward) > FLOAT32_MAX),
        "no action but a reward": closing & (reward != 0),
        "no action but an end": closing & (terminated | truncated),
    }


FLOAT32_MAX = float(np.finfo(np.float32).max)
