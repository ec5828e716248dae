"""What surrounds a row: how far an n-step return reaches, and which frames belong to it.

All functions work on B rows of `Columns` at once. A step from a row is taken if the row is USABLE;
a walk stops after a row that ended its episode and before a row that is not usable.
Shapes: B batch, S stack, n steps.
"""

from typing import NamedTuple

import numpy as np

from scaledq.data.columns import Columns
from scaledq.data.rows import ENDED, START, TERMINATED, USABLE

HORIZON = 4096
"""Rows that a Monte-Carlo return looks ahead at most."""
NEGLIGIBLE = 1e-4
"""It looks no further than a reward's weight stays above this."""


class Walk(NamedTuple):
    """n steps from each of B usable rows, or as many as there are."""

    steps: np.ndarray
    """int64 [B] m, from 1 to n: the bootstrap's observation is m rows on"""
    reward: np.ndarray
    """float64 [B] sum of gamma**k times the k-th clipped reward, k < m"""
    terminated: np.ndarray
    """bool [B] with the last step: there is no bootstrap"""
    ended: np.ndarray
    """bool [B] terminated or truncated with the last step"""


def walk(columns: Columns, rows: np.ndarray, *, n: int, gamma: float, clip: float | None) -> Walk:
    """Takes n steps from `rows` [B], all usable."""
    window = np.minimum(rows[:, None] + np.arange(n), len(columns) - 1)
    return follow(columns.flags[window], columns.reward[window], gamma=gamma, clip=clip)


def follow(bits: np.ndarray, reward: np.ndarray, *, gamma: float, clip: float | None) -> Walk:
    """As `walk`, where the flags and rewards of n rows from each row on [B n] are at hand."""
    goes_on = (bits & USABLE) > 0
    goes_on[:, 1:] &= (bits[:, :-1] & ENDED) == 0
    taken = np.logical_and.accumulate(goes_on, axis=1)
    steps = taken.sum(1)
    rewards = clipped(reward, clip) * taken
    last = bits[np.arange(len(bits)), steps - 1]
    total = rewards @ gamma ** np.arange(bits.shape[1], dtype=np.float64)
    return Walk(steps, total, (last & TERMINATED) > 0, (last & ENDED) > 0)


def horizon(gamma: float) -> int:
    """How many rows a Monte-Carlo return looks ahead."""
    return int((gamma ** np.arange(HORIZON, dtype=np.float64) > NEGLIGIBLE).sum())


def monte_carlo(found: Walk, *, gamma: float) -> np.ndarray:
    """The returns that walks of `horizon(gamma)` rows found: float32 [B], NaN where the episode's
    end is neither among them nor too far to matter."""
    n = horizon(gamma)
    known = found.ended | ((found.steps == n) & (gamma**n <= NEGLIGIBLE))
    return np.where(known, found.reward, np.nan).astype(np.float32)


def clipped(reward: np.ndarray, clip: float | None) -> np.ndarray:
    """Rewards within [-clip, clip], or as they are."""
    return reward if clip is None else np.clip(reward, -clip, clip)


class Runs(NamedTuple):
    """The rows whose frames a sample needs: `length` from `first` on, all of one episode."""

    first: np.ndarray
    length: np.ndarray
    place: np.ndarray
    """int64 [B] where `first` goes among the sample's K frames; zeros come before and after"""


def runs(columns: Columns, rows: np.ndarray, steps: np.ndarray, *, stack: int) -> Runs:
    """From the stack's oldest frame in the row's episode to the observation `steps` rows on.

    Where the episode terminated on the way and its closing observation is not known, the run ends
    with the last observation that is.
    """
    depth = reach(columns.flags[rows[:, None] - np.arange(stack - 1)])
    after = np.minimum(rows + steps, len(columns) - 1)
    known = ((columns.flags[after] & START) == 0) & (rows + steps < len(columns))
    return Runs(rows - depth, depth + steps + known, stack - 1 - depth)


def reach(bits: np.ndarray) -> np.ndarray:
    """How many frames of a row's stack, besides its own, lie in its episode: int64 [B].

    Args:
      bits: flags [B S-1] of the row, the one before it, and so on.
    """
    return np.logical_and.accumulate((bits & START) == 0, axis=1).sum(1)
