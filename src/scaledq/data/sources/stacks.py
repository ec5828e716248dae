"""Are stacked observations the same frames over and over, so that single frames say it all?"""

from collections.abc import Iterable

import numpy as np


def unstack(observation: np.ndarray, *, size: int, axis: int) -> np.ndarray:
    """Observations [k ...] with their stack first: [k S *frame].

    Args:
      axis: of an observation that the stack lies in: 0 or -1.

    Raises:
      ValueError: there is no stack of that size there.
    """
    if observation.ndim < 3 or observation.shape[1 if axis == 0 else axis] != size:
        raise ValueError(
            f"an observation of shape {observation.shape[1:]} holds no stack of {size} in its "
            f"{'first' if axis == 0 else 'last'} axis"
        )
    return np.moveaxis(observation, 1 if axis == 0 else axis, 1)


def overlap(blocks: Iterable[tuple[np.ndarray, np.ndarray]]) -> bool:
    """Whether each stack is the one before it moved on by a frame.

    At an episode's start the older frames must be zeros, or its first frame again: stacks that are
    made when reading are padded with zeros there.

    Args:
      blocks: stacks [k S *frame] in time order, and bool [k]: an episode starts with the row.
    """
    before = None
    for stacks, fresh in blocks:
        if not len(stacks):
            continue
        first = stacks if before is None else np.concatenate([before, stacks])
        moved = _equal(first[1:, :-1], first[:-1, 1:])
        if before is None:
            moved = np.concatenate([[False], moved])
        older, newest = stacks[:, :-1], stacks[:, -1:]
        padded = _equal(older, np.zeros_like(older)) | _equal(older, newest)
        if not np.where(fresh, padded, moved).all():
            return False
        before = stacks[-1:]
    return before is not None


def _equal(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[k]: whether rows are the same, bit for bit but for zeros' signs."""
    same = (a == b) | ((a != a) & (b != b))
    return same.reshape(len(a), -1).all(1)
