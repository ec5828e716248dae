"""How good is a method over many tasks, and how sure may we be? Pure functions of arrays of scores.

Shapes: R runs, N tasks, T thresholds. `scores` is [R, N], usually normalised. Definitions and the
stratified bootstrap are those of Agarwal et al. (2021), https://arxiv.org/abs/2108.13264.

What is resampled: tasks are strata and stay as they are; within each task, and independently of
the others, the R entries of its column are drawn anew with replacement. So intervals speak about
other runs on the same tasks. Where a row is a training run (one seed; its entry the mean over the
evaluation episodes), they cover the luck of training. Where only one run was trained and the rows
are its evaluation episodes, they cover the luck of playing, and say nothing about other seeds.

Functions that look at one task at a time also take `Columns`: one array a task, for tasks with
unequal numbers of episodes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from scaledq.core.errors import DataError

Columns = Float[np.ndarray, "..."] | Sequence[Float[np.ndarray, "..."]]
Statistic = Callable[[Float[np.ndarray, "R N"]], float]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its interval."""

    value: float
    low: float
    high: float


def iqm(scores: Float[np.ndarray, "..."]) -> float:
    """Interquartile mean: the mean of the middle half of all R * N scores.

    A quarter of them, rounded down, is cut off at each end. Raises DataError, as every function
    here does, where `scores` is not [R, N], is empty or holds a NaN.
    """
    flat = np.sort(_checked(scores), axis=None)
    cut = int(0.25 * flat.size)
    return float(flat[cut : flat.size - cut].mean())


def median(scores: Float[np.ndarray, "..."]) -> float:
    """Median over tasks of each task's mean over runs."""
    return float(np.median(_checked(scores).mean(axis=0)))


def mean(scores: Float[np.ndarray, "..."]) -> float:
    """Mean over tasks of each task's mean over runs."""
    return float(_checked(scores).mean(axis=0).mean())


def optimality_gap(scores: Float[np.ndarray, "..."], gamma: float = 1.0) -> float:
    """How far the scores fall short of `gamma` on average; a score above it counts as `gamma`."""
    return gamma - float(np.minimum(_checked(scores), gamma).mean())


def profile(scores: Columns, taus: Float[np.ndarray, "T"]) -> Float[np.ndarray, "T"]:
    """Performance profile: the fraction of runs and tasks that score above each threshold.

    Every task weighs the same, whatever its number of runs.
    """
    parts = [(column[:, None] > taus).mean(axis=0) for column in _columns(scores)]
    return np.mean(parts, axis=0)


def profile_band(
    scores: Columns,
    taus: Float[np.ndarray, "T"],
    *,
    rng: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> Float[np.ndarray, "2 T"]:
    """Lower and upper bound of the profile at each threshold (pointwise)."""
    columns = _columns(scores)
    draws = np.zeros((resamples, len(taus)))
    for column in columns:
        draws += _weights(column, rng, resamples) @ (column[:, None] > taus)
    return _percentiles(draws / len(columns), confidence)


def interval(
    scores: Float[np.ndarray, "..."],
    statistic: Statistic,
    *,
    rng: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> tuple[float, float]:
    """Percentile interval of `statistic` ([R, N] -> float) under the stratified bootstrap."""
    draws = resampled(scores, statistic, rng=rng, resamples=resamples)
    low, high = _percentiles(draws, confidence)
    return float(low), float(high)


def resampled(
    scores: Float[np.ndarray, "..."],
    statistic: Statistic,
    *,
    rng: np.random.Generator,
    resamples: int = 2000,
) -> Float[np.ndarray, "resamples"]:
    """`statistic` of each draw of the stratified bootstrap."""
    scores = _checked(scores)
    runs = rng.integers(len(scores), size=(resamples, *scores.shape))
    return np.array([statistic(np.take_along_axis(scores, drawn, axis=0)) for drawn in runs])


def mean_interval(
    column: Float[np.ndarray, "..."],
    *,
    rng: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> tuple[float, float]:
    """Interval of the mean of one task's scores [R]."""
    (column,) = _columns([column])
    low, high = _percentiles(_weights(column, rng, resamples) @ column, confidence)
    return float(low), float(high)


def interval_of_means(
    episodes: Columns,
    statistic: Statistic,
    *,
    rng: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> tuple[float, float]:
    """As `interval`, for one run whose score on a task is the mean over its episodes.

    Episodes are resampled within each task, and `statistic` sees their means, [1, N].
    """
    draws = resampled_means(episodes, statistic, rng=rng, resamples=resamples)
    low, high = _percentiles(draws, confidence)
    return float(low), float(high)


def resampled_means(
    episodes: Columns, statistic: Statistic, *, rng: np.random.Generator, resamples: int = 2000
) -> Float[np.ndarray, "resamples"]:
    """`statistic` of each draw, for one run and its episodes."""
    columns = _columns(episodes)
    means = [_weights(column, rng, resamples) @ column for column in columns]
    return np.array([statistic(row[None]) for row in np.stack(means, axis=1)])


def probability_of_improvement(x: Columns, y: Columns) -> float:
    """Probability that a run of x beats a run of y on the same task, averaged over tasks.

    Equal scores count one half (the Mann-Whitney U statistic over its maximum). The numbers of
    runs may differ; raises DataError where the numbers of tasks do.
    """
    pairs = [np.sign(a[:, None] - b) for a, b in zip(*_paired(x, y), strict=True)]
    return float(np.mean([(1 + signs.mean()) / 2 for signs in pairs]))


def improvement_interval(
    x: Columns,
    y: Columns,
    *,
    rng: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> tuple[float, float]:
    """Interval of `probability_of_improvement`; x and y are resampled independently."""
    draws = np.zeros(resamples)
    paired = list(zip(*_paired(x, y), strict=True))
    for a, b in paired:
        signs = np.sign(a[:, None] - b)
        drawn = _weights(a, rng, resamples) @ signs
        draws += (1 + (drawn * _weights(b, rng, resamples)).sum(axis=1)) / 2
    low, high = _percentiles(draws / len(paired), confidence)
    return float(low), float(high)


def _checked(scores: Float[np.ndarray, "..."]) -> Float[np.ndarray, "R N"]:
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 2 or scores.size == 0:
        raise DataError(f"scores must be [runs, tasks] with at least one of each: {scores.shape}")
    if np.isnan(scores).any():
        run, task = np.argwhere(np.isnan(scores))[0]
        raise DataError(f"the score of run {run} on task {task} is NaN; leave the task out or play")
    return scores


def _columns(scores: Columns) -> list[Float[np.ndarray, "_"]]:
    """One float64 array for each task, checked."""
    if isinstance(scores, np.ndarray):
        return list(_checked(scores).T)
    if not scores:
        raise DataError("scores of no task at all; need at least one")
    return [_checked(np.asarray(column)[:, None])[:, 0] for column in scores]


def _paired(x: Columns, y: Columns) -> tuple[list[np.ndarray], list[np.ndarray]]:
    ours, theirs = _columns(x), _columns(y)
    if len(ours) != len(theirs):
        raise DataError(f"need scores on the same tasks, got {len(ours)} and {len(theirs)} tasks")
    return ours, theirs


def _weights(
    column: Float[np.ndarray, "R"], rng: np.random.Generator, resamples: int
) -> Float[np.ndarray, "resamples R"]:
    """How often each entry is drawn, over R: a row times `column` is the mean of one resample."""
    size = len(column)
    return rng.multinomial(size, np.full(size, 1 / size), size=resamples) / size


def _percentiles(draws: Float[np.ndarray, "..."], confidence: float) -> Float[np.ndarray, "..."]:
    if not 0 < confidence < 1:
        raise DataError(f"confidence must lie between 0 and 1, got {confidence}")
    return np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
