"""Which transitions of a store a run may see, and how often it sees each task.

A view is a config and costs no disk. The virtual index of a task counts its chosen transitions from
0; a Selection finds the row behind an index by bisection, however large the store is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np

from scaledq.core.config import by_kind, config
from scaledq.core.errors import ConfigError, DataError, suggest
from scaledq.core.seeds import stream
from scaledq.data.columns import Columns
from scaledq.data.rows import CLOSING, ENDED, START, USABLE

BLOCK = 1 << 20


@config
class All:
    """Every transition."""

    kind: Literal["all"] = "all"


@config
class First:
    """The first part of every log in time: of DQN-Replay, 0.2 is what a mediocre agent saw."""

    kind: Literal["first"] = "first"
    fraction: float = 0.2

    def __post_init__(self) -> None:
        _check_fraction("first", self.fraction)


@config
class Span:
    """The same stretch of every log, as fractions of its rows: which part of training made it."""

    kind: Literal["span"] = "span"
    start: float
    stop: float

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop <= 1:
            raise ConfigError(
                f"view span: need 0 <= start < stop <= 1, got {self.start} and {self.stop}"
            )


@config
class Uniform:
    """Each transition with this probability, drawn once; a smaller fraction's are among them."""

    kind: Literal["uniform"] = "uniform"
    fraction: float
    seed: int = 0

    def __post_init__(self) -> None:
        _check_fraction("uniform", self.fraction)
        if self.seed < 0:
            raise ConfigError(f"view uniform: need seed >= 0, got {self.seed}")


@config
class Episodes:
    """The best or worst complete episodes of each task by raw return, at least one."""

    kind: Literal["episodes"] = "episodes"
    which: Literal["top", "bottom"] = "top"
    fraction: float

    def __post_init__(self) -> None:
        _check_fraction("episodes", self.fraction)


Rows = All | First | Span | Uniform | Episodes


@config
class View:
    """Which rows, and each task's share of the batches: equal, by weights, or by size."""

    rows: Annotated[Rows, by_kind] = field(default_factory=All)
    weights: dict[str, float] = field(default_factory=dict)
    """Relative share of a task; 1 for those not named."""
    temperature: float | None = None
    """Shares proportional to a task's transitions to the power 1 / temperature."""

    def __post_init__(self) -> None:
        if self.weights and self.temperature is not None:
            raise ConfigError("a view takes weights or a temperature, not both")
        for task, weight in self.weights.items():
            if not 0 < weight < np.inf:
                raise ConfigError(f"view: the weight of {task} must be positive, got {weight}")
        if self.temperature is not None and not 0 < self.temperature < np.inf:
            raise ConfigError(f"view: temperature must be positive, got {self.temperature}")

    def shares(self, tasks: Sequence[str], sizes: np.ndarray) -> np.ndarray:
        """Each task's probability in a batch: float64 [N]; sizes [N] are its transitions.

        Raises:
          ConfigError: a weight for a task that is not among `tasks`.
        """
        for task in self.weights:
            if task not in tasks:
                raise ConfigError(f"view: a weight for {task!r}; {suggest(task, tasks)}")
        weights = np.array([self.weights.get(task, 1.0) for task in tasks])
        if self.temperature is not None:
            relative = np.log(sizes) - np.log(sizes).max()
            weights = np.exp(relative / self.temperature)
        return weights / weights.sum()

    def piece(self, length: int) -> tuple[int, int]:
        """Rows start..stop-1 that remain of a log of `length` rows; it is cut before anything else,
        so that no stack, n-step return or bootstrap looks beyond the cut."""
        match self.rows:
            case First(fraction=fraction):
                return 0, round(fraction * length)
            case Span(start=start, stop=stop):
                return round(start * length), round(stop * length)
        return 0, length


@dataclass(frozen=True, slots=True)
class Selection:
    """The transitions of one task that a view leaves, as runs of consecutive rows."""

    starts: np.ndarray
    """int64 [E] first row of each run"""
    before: np.ndarray
    """int64 [E + 1] transitions before each run; the last entry is their number"""

    def __len__(self) -> int:
        return int(self.before[-1])

    def rows(self, index: np.ndarray) -> np.ndarray:
        """The row in `Columns` of each virtual index [B]."""
        run = np.searchsorted(self.before, index, side="right") - 1
        return self.starts[run] + index - self.before[run]


def select(
    view: View,
    columns: Columns,
    first: int,
    last: int,
    *,
    task: str,
    among: np.ndarray | None = None,
    lacking: str = "",
) -> Selection:
    """The usable transitions among rows first..last-1 of `columns`, which are all of one task's.

    Args:
      among: bool [R] over all rows of `columns`: others are left out.
      lacking: what those others lack.

    Raises:
      DataError: there are none.
    """
    bits = columns.flags[first:last]
    chosen = (bits & USABLE).astype(bool)
    if among is not None and chosen.any():
        chosen &= among[first:last]
        if not chosen.any():
            raise DataError(f"{task} lacks {lacking}")
    if chosen.any():
        match view.rows:
            case Uniform(fraction=fraction, seed=seed):
                chosen &= _thinned(len(bits), fraction, seed, task)
            case Episodes(which=which, fraction=fraction):
                chosen &= _ranked(columns, first, last, fraction=fraction, best=which == "top")
    if not chosen.any():
        raise DataError(
            f"the view {view.rows} leaves no transition of {task}'s {last - first:,} rows; widen it"
        )
    return _runs(chosen, first)


def _runs(chosen: np.ndarray, first: int) -> Selection:
    """The runs of True in `chosen` [R], whose first entry is row `first`."""
    edges = np.flatnonzero(chosen[1:] != chosen[:-1]) + 1
    edges = np.concatenate([[0], edges, [len(chosen)]])
    starts, stops = edges[:-1], edges[1:]
    kept = chosen[starts]
    before = np.concatenate([[0], np.cumsum((stops - starts)[kept])])
    return Selection(starts[kept] + first, before)


def _thinned(rows: int, fraction: float, seed: int, task: str) -> np.ndarray:
    """True [rows] with probability `fraction`, the same for equal (seed, task) and nested."""
    rng = stream(seed, "view", task)
    draws = (rng.random(min(BLOCK, rows - at)) < fraction for at in range(0, rows, BLOCK))
    return np.concatenate([*draws, np.zeros(0, bool)])


def _ranked(columns: Columns, first: int, last: int, *, fraction: float, best: bool) -> np.ndarray:
    """True [last - first] in the rows of the complete episodes with the best or worst returns."""
    bits = columns.flags[first:last]
    starts = np.flatnonzero(bits & START)
    stops = np.append(starts[1:], len(bits))
    closing = columns.action[first:last][stops - 1] == CLOSING
    complete = (bits[np.maximum(stops - 1 - closing, starts)] & ENDED).astype(bool)
    returns = np.add.reduceat(columns.reward[first:last], starts, dtype=np.float64)
    order = np.argsort(-returns if best else returns, kind="stable")
    order = order[complete[order]]
    kept = np.zeros(len(starts), bool)
    kept[order[: int(np.ceil(fraction * len(order)))]] = True
    return np.repeat(kept, stops - starts)


def _check_fraction(kind: str, fraction: float) -> None:
    if not 0 < fraction <= 1:
        raise ConfigError(f"view {kind}: the fraction must lie in (0, 1], got {fraction}")
