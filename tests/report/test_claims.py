"""Verdicts: no claim holds by a single seed, or where the intervals leave it open."""

from typing import Any

import numpy as np
import pytest

from scaledq.core.seeds import stream
from scaledq.report import stats
from scaledq.report.claims import Finding, judge
from scaledq.report.scores import group

from .conftest import rows_of

Rows = list[dict[str, Any]]


def seeds(method: str, levels: list[float], *, task: str = "Freeway") -> Rows:
    return [
        row
        for i, level in enumerate(levels)
        for row in rows_of(method, task, [level - 1, level, level + 1], run=f"{method}-{i}")
    ]


def verdict(rows: Rows, normal: Any = "human") -> Finding:
    return judge(
        group(rows), "a", "b", normal=normal, statistic=stats.iqm, rng=stream(0, "j"), resamples=300
    )


def test_a_clear_difference_holds_one_way_and_not_the_other() -> None:
    better, worse = seeds("a", [20, 21, 22]), seeds("b", [10, 11, 12])
    found = verdict(better + worse)
    assert (found.verdict, found.reason, found.improvement) == ("holds", "", 1.0)
    # Freeway: random play 0, human 29.6.
    assert found.difference.value == pytest.approx(10 / 29.6)
    swapped = seeds("a", [10, 11, 12]) + seeds("b", [20, 21, 22])
    assert verdict(swapped).verdict == "does not hold"


def test_one_seed_tells_nothing_however_far_apart() -> None:
    found = verdict(seeds("a", [20]) + seeds("b", [1, 2, 3]))
    assert (found.verdict, found.reason) == ("cannot be told", "one seed only of a")


def test_an_interval_around_0_tells_nothing() -> None:
    found = verdict(seeds("a", [10, 14, 18]) + seeds("b", [11, 13, 16]))
    assert found.verdict == "cannot be told"
    assert found.difference.low < 0 < found.difference.high


def test_equal_scores_are_never_a_win() -> None:
    found = verdict(seeds("a", [5, 5]) + seeds("b", [5, 5]))
    assert (found.verdict, found.difference.value, found.improvement) == ("cannot be told", 0, 0.5)


def test_raw_scores_are_compared_by_who_wins() -> None:
    rows = seeds("a", [20, 21, 22], task="Freeway:m1d0") + seeds(
        "b", [1, 2, 3], task="Freeway:m1d0"
    )
    found = verdict(rows, normal="raw")
    assert found.verdict == "holds"
    assert found.difference.value == 0.5


def test_the_bootstraps_draws_give_the_interval_that_stats_gives() -> None:
    scores = np.arange(12.0).reshape(3, 4)
    bounds = stats.interval(scores, stats.iqm, rng=stream(1, "x"), resamples=200)
    draws = stats.resampled(scores, stats.iqm, rng=stream(1, "x"), resamples=200)
    assert bounds == pytest.approx(np.quantile(draws, [0.025, 0.975]))
