"""How does a score grow with size, data or compute, how sure is that, and what would more give?

y = c * x**b, a straight line through logarithms (least squares). Shapes: P points, K draws of the
bootstrap, T logged values. Intervals come from the points' own uncertainty: each draw of all P
scores gets a line of its own. They do not cover that the law might be another one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from scaledq.core.errors import DataError
from scaledq.report.stats import Estimate

LOST = 0.025
"""The share of draws that may be without a logarithm: one tail of a 95 % interval."""


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """A fitted law; `predict` goes beyond its points."""

    exponent: Estimate
    factor: Estimate
    """y at x = 1."""
    explained: float
    """R squared in logarithms: 1 where all points lie on the line."""
    lines: Float[np.ndarray, "K 2"]
    """Exponent and log of the factor, of each draw."""

    def predict(self, x: float) -> Estimate:
        """The score at size x, with its 95 % interval."""
        drawn = np.exp(self.lines @ np.array([np.log(x), 1.0]))
        low, high = np.quantile(drawn, [0.025, 0.975])
        return Estimate(self.factor.value * x**self.exponent.value, float(low), float(high))


def fit(
    x: Sequence[float], y: Sequence[float], draws: Float[np.ndarray, "K P"] | None = None
) -> PowerLaw:
    """The law through P points.

    Args:
      x: sizes.
      y: scores.
      draws: the bootstrap's draws of those scores; None where they have no uncertainty.

    Raises:
      DataError: fewer than three sizes that differ, or a number without a logarithm.
    """
    sizes, scores = np.asarray(x, float), np.asarray(y, float)
    if len(np.unique(sizes)) < 3:
        raise DataError(f"a power law needs three sizes or more, got {len(np.unique(sizes))}")
    if sizes.min() <= 0 or scores.min() <= 0:
        raise DataError(
            f"a power law needs sizes and scores above 0, got {sizes.min():g} and {scores.min():g}"
        )
    drawn = scores[None] if draws is None else np.asarray(draws, float)
    whole = (drawn > 0).all(axis=1)
    if (~whole).mean() > LOST:
        raise DataError(
            f"a power law needs scores above 0: {(~whole).mean():.0%} of the bootstrap's draws "
            "have one that is not; train longer, or run more seeds"
        )
    best, lines = _lines(sizes, scores[None])[0], _lines(sizes, drawn[whole])
    left = np.log(scores) - (best[0] * np.log(sizes) + best[1])
    spread = np.log(scores) - np.log(scores).mean()
    explained = 1 - float(left @ left) / float(spread @ spread) if spread.any() else 1.0
    return PowerLaw(
        exponent=_estimate(best[0], lines[:, 0]),
        factor=_estimate(np.exp(best[1]), np.exp(lines[:, 1])),
        explained=explained,
        lines=lines,
    )


def still_falling(losses: Sequence[float]) -> bool:
    """Whether the last fifth of a loss lies below the fifth before, by two standard errors.

    False for fewer than 20 logged values, where nothing can be told.
    """
    fifth = len(losses) // 5
    if fifth < 4:
        return False
    before, last = np.asarray(losses[-2 * fifth : -fifth]), np.asarray(losses[-fifth:])
    error = np.sqrt((before.var(ddof=1) + last.var(ddof=1)) / fifth)
    return bool(before.mean() - last.mean() > 2 * error)


def _lines(
    sizes: Float[np.ndarray, "P"], scores: Float[np.ndarray, "K P"]
) -> Float[np.ndarray, "K 2"]:
    """Exponent and log factor of the least-squares line through each draw's logarithms."""
    across = np.log(sizes) - np.log(sizes).mean()
    up = np.log(scores)
    exponent = up @ across / (across @ across)
    return np.stack([exponent, up.mean(axis=1) - exponent * np.log(sizes).mean()], axis=1)


def _estimate(value: float, drawn: Float[np.ndarray, "K"]) -> Estimate:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(float(value), float(low), float(high))
