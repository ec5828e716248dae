"""How fast runs learnt while they played: from the episodes that ended on the way to mean curves.

Shapes: R runs (seeds), P points of a curve.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from scaledq.report import stats
from scaledq.report.comparisons import Band
from scaledq.run.folder import Run

POINTS = 20
"""Of a curve: equal stretches of the longest run."""


@dataclass(frozen=True, slots=True)
class Course:
    """One run: after how many emulator frames what was noted, [rows] each."""

    frames: Float[np.ndarray, "_"]
    returns: Float[np.ndarray, "_"]
    """The mean raw return of the episodes that had ended since the row before."""
    episodes: Float[np.ndarray, "_"]
    """How many those were: at least one."""


def course(run: Run) -> Course:
    """What an online run of one task noted on its way; rows without an episode's end left out."""
    assert run.config.online, "it did not play"
    (task,) = run.config.tasks
    rows = [row for row in run.metrics if row.get("episode_return") is not None]
    skip = run.config.online.protocol.frame_skip
    return Course(
        np.array([row["transitions"] * skip for row in rows], np.float64),
        np.array([row["episode_return"] for row in rows], np.float64),
        np.array([row["episodes"][task] for row in rows], np.float64),
    )


def mean_curves(
    courses: Mapping[str, Sequence[Course]], rngs: Mapping[str, np.random.Generator]
) -> dict[str, Band]:
    """label -> the mean over its runs and its 95 % interval over runs, at equal stretches.

    A point is the mean over the episodes that ended in the stretch before it; where none did, the
    last one that is known. Before every run of a label has ended one, it has no point. Labels
    without any are left out.
    """
    longest = max((c.frames[-1] for every in courses.values() for c in every if len(c.frames)),
                  default=0.0)  # fmt: skip
    ends = np.linspace(0, longest, POINTS + 1)[1:]
    out = {}
    for label, every in courses.items():
        values = np.stack([_points(c, ends) for c in every]) if every else np.empty((0, POINTS))
        known = ~np.isnan(values).any(0) if len(values) else np.zeros(POINTS, bool)
        if known.any():
            out[label] = _band(ends[known], values[:, known], rngs[label])
    return out


def _points(course: Course, ends: Float[np.ndarray, "P"]) -> Float[np.ndarray, "P"]:
    """The mean return in the stretch up to each end, or the last known; NaN before the first."""
    stretch = np.minimum(np.searchsorted(ends, course.frames), len(ends) - 1)
    counts = np.bincount(stretch, course.episodes, len(ends))
    sums = np.bincount(stretch, course.returns * course.episodes, len(ends))
    last = np.maximum.accumulate(np.where(counts > 0, np.arange(len(ends)), -1))
    means = sums / np.maximum(counts, 1)
    return np.where(last >= 0, means[last], np.nan)


def _band(
    frames: Float[np.ndarray, "P"], values: Float[np.ndarray, "R P"], rng: np.random.Generator
) -> Band:
    if len(values) == 1:
        return Band(frames, values[0], values[0], values[0])
    bounds = [stats.mean_interval(column, rng=rng) for column in values.T]
    low, high = np.array(bounds).T
    return Band(frames, values.mean(0), low, high)


def rows(bands: Mapping[str, Mapping[str, Band]]) -> list[tuple[Any, ...]]:
    """task -> label -> curve as rows of a table: (task, arm, frames, estimate)."""
    return [
        (task, label, round(x), stats.Estimate(float(y), float(low), float(high)))
        for task, every in bands.items()
        for label, band in every.items()
        for x, y, low, high in zip(*band, strict=True)
    ]
