"""Does a claim hold here? Only where the intervals say so, and never from a single seed."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from scaledq.report import stats
from scaledq.report.scores import Normal, Scores, drawn, normalised
from scaledq.report.stats import Estimate, Statistic

Verdict = Literal["holds", "does not hold", "cannot be told"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict and what it rests on."""

    verdict: Verdict
    difference: Estimate
    """By how much the one that should be better is better, in units of the statistic; of raw
    scores, whose scales differ, how far its probability of improvement lies above one half."""
    reason: str
    """Why it cannot be told; empty where it can."""
    improvement: float
    """Probability that a run of the one beats a run of the other, over tasks."""


def judge(
    scores: Scores,
    better: str,
    worse: str,
    *,
    normal: Normal,
    statistic: Statistic,
    rng: np.random.Generator,
    resamples: int = 2000,
) -> Finding:
    """Whether `better` scores above `worse`: the 95 % interval of their difference leaves out 0.

    Both are resampled independently. A method that was trained once has no interval over training
    runs, so that nothing can be told about it, however its episodes differ.

    Raises:
      DataError: one of them lacks scores of a task, or a task lacks its reference.
    """
    columns = [normalised(scores, method, normal) for method in (better, worse)]
    improvement = stats.probability_of_improvement(*columns)
    if normal == "raw":
        bounds = stats.improvement_interval(*columns, rng=rng, resamples=resamples)
        difference = Estimate(improvement - 0.5, bounds[0] - 0.5, bounds[1] - 0.5)
    else:
        difference = _difference(
            *(
                drawn(scores, method, normal, statistic=statistic, rng=rng, resamples=resamples)
                for method in (better, worse)
            )
        )
    single = [m for m in (better, worse) if m not in scores.recorded and len(scores.runs(m)) == 1]
    reason = ""
    if single:
        reason = f"one seed only of {' and '.join(single)}"
    elif difference.low <= 0 <= difference.high:
        reason = "the interval of the difference holds 0"
    verdict: Verdict = "holds" if difference.low > 0 else "does not hold"
    return Finding(
        verdict="cannot be told" if reason else verdict,
        difference=difference,
        reason=reason,
        improvement=improvement,
    )


def _difference(
    one: tuple[float, Float[np.ndarray, "K"]], other: tuple[float, Float[np.ndarray, "K"]]
) -> Estimate:
    low, high = np.quantile(one[1] - other[1], [0.025, 0.975])
    return Estimate(one[0] - other[0], float(low), float(high))
