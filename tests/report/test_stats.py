"""The statistics against rliable's numbers, and against what they mean.

Numbers of rliable 1.2.0 (with arch 7.2.0, numpy 2.4.6, scipy 1.17.1) on `made(...)`: metrics.
aggregate_iqm, _median, _mean, _optimality_gap (gamma 1, then 0.5) and probability_of_improvement
of made(R, N, 0.3) over made(R + 2, N, 0.9); library.create_performance_profile (50,000
repetitions, np.random.seed(1)); library.get_interval_estimates (200,000 repetitions, seed 2; for
the probability of improvement 20,000, seed 3).
"""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scaledq.core.errors import DataError
from scaledq.report import stats

RLIABLE = {
    (5, 7): (0.3547368421052632, 0.468, 0.4797142857142858, 0.5722857142857143),
    (3, 4): (0.19, 0.20666666666666667, 0.25, 0.75),
    (1, 40): (1.795, 1.575, 2.52575, 0.26875),
    (16, 5): (0.26725, 0.329375, 0.345875, 0.659625),
}
RLIABLE_GAP_AT_HALF = {
    (5, 7): 0.20028571428571434,
    (3, 4): 0.2758333333333334,
    (1, 40): 0.08775,
    (16, 5): 0.23475,
}
RLIABLE_IMPROVEMENT = {
    (5, 7): 0.5020408163265306,
    (3, 4): 0.5,
    (1, 40): 0.5083333333333334,
    (16, 5): 0.48958333333333337,
}
TAUS = np.array([0, 0.1, 0.25, 0.5, 1.0, 1.5])
RLIABLE_PROFILE = [0.97142857, 0.77142857, 0.57142857, 0.37142857, 0.2, 0.02857143]
RLIABLE_BAND = [
    [0.91428571, 0.62857143, 0.42857143, 0.22857143, 0.08571429, 0.0],
    [1.0, 0.88571429, 0.71428571, 0.51428571, 0.31428571, 0.08571429],
]
RLIABLE_INTERVALS = {
    stats.iqm: (0.2326315789473684, 0.5268421052631579),
    stats.median: (0.268, 0.646),
    stats.mean: (0.35457142857142854, 0.6042857142857143),
    stats.optimality_gap: (0.4731428571428571, 0.6734285714285715),
}
RLIABLE_IMPROVEMENT_INTERVAL = (0.36938776, 0.63469388)


def made(runs: int, tasks: int, phase: float) -> np.ndarray:
    """Scores [runs, tasks] with ties, by a formula that no library version changes."""
    i = np.arange(runs * tasks).reshape(runs, tasks)
    return np.round(np.sin(i * 1.7 + phase) ** 2 * (0.2 + np.arange(tasks) / 4), 2)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("shape", RLIABLE)
def test_aggregates_equal_rliables(shape: tuple[int, int]) -> None:
    scores = made(*shape, 0.3)
    measured = [f(scores) for f in (stats.iqm, stats.median, stats.mean, stats.optimality_gap)]
    np.testing.assert_allclose(measured, RLIABLE[shape], rtol=1e-12)
    gap = stats.optimality_gap(scores, gamma=0.5)
    np.testing.assert_allclose(gap, RLIABLE_GAP_AT_HALF[shape], rtol=1e-12)


@pytest.mark.parametrize("shape", RLIABLE)
def test_probability_of_improvement_equals_rliables(shape: tuple[int, int]) -> None:
    x, y = made(*shape, 0.3), made(shape[0] + 2, shape[1], 0.9)
    measured = stats.probability_of_improvement(x, y)
    np.testing.assert_allclose(measured, RLIABLE_IMPROVEMENT[shape], rtol=1e-12)


def test_profile_equals_rliables_and_its_band_does_within_monte_carlo_error() -> None:
    scores = made(5, 7, 0.3)
    np.testing.assert_allclose(stats.profile(scores, TAUS), RLIABLE_PROFILE, atol=1e-8)
    band = stats.profile_band(scores, TAUS, rng=rng(), resamples=20_000)
    np.testing.assert_allclose(band, RLIABLE_BAND, atol=1.01 / 35)  # one score of the 35


@pytest.mark.parametrize("statistic", RLIABLE_INTERVALS, ids=lambda f: f.__name__)
def test_intervals_equal_rliables_within_monte_carlo_error(statistic: stats.Statistic) -> None:
    measured = stats.interval(made(5, 7, 0.3), statistic, rng=rng(), resamples=1_000)
    np.testing.assert_allclose(measured, RLIABLE_INTERVALS[statistic], atol=0.02)


def test_the_interval_of_improvement_equals_rliables_within_monte_carlo_error() -> None:
    x, y = made(5, 7, 0.3), made(7, 7, 0.9)
    measured = stats.improvement_interval(x, y, rng=rng(), resamples=20_000)
    np.testing.assert_allclose(measured, RLIABLE_IMPROVEMENT_INTERVAL, atol=0.01)


def test_the_bootstrap_equals_a_full_enumeration_of_resamples() -> None:
    scores = np.array([[0.0, 1.0], [2.0, 5.0], [3.0, 4.0]])
    picks = list(product(range(3), repeat=3))
    draws = [
        stats.iqm(np.stack([scores[list(a), 0], scores[list(b), 1]], axis=1))
        for a in picks
        for b in picks
    ]
    expected = np.quantile(draws, [0.1, 0.9])
    measured = stats.interval(scores, stats.iqm, rng=rng(), confidence=0.8, resamples=2_000)
    np.testing.assert_allclose(measured, expected, atol=0.1)


def test_an_interval_of_means_resamples_episodes_of_each_task_by_itself() -> None:
    episodes = [np.array([0.0, 2.0]), np.array([1.0, 3.0, 5.0])]
    firsts = [np.mean(p) for p in product(episodes[0], repeat=2)]
    seconds = [np.mean(p) for p in product(episodes[1], repeat=3)]
    draws = [(a + b) / 2 for a in firsts for b in seconds]
    measured = stats.interval_of_means(
        episodes, stats.mean, rng=rng(), confidence=0.8, resamples=2_000
    )
    np.testing.assert_allclose(measured, np.quantile(draws, [0.1, 0.9]), atol=0.05)
    alone = stats.mean_interval(episodes[1], rng=rng(), confidence=0.8, resamples=20_000)
    np.testing.assert_allclose(alone, np.quantile(seconds, [0.1, 0.9]), atol=0.05)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    draw = np.random.default_rng(5)
    covered = 0
    for _ in range(200):
        column = draw.normal(size=40)
        low, high = stats.mean_interval(column, rng=draw, confidence=0.9, resamples=500)
        covered += low <= 0 <= high
    assert 0.82 <= covered / 200 <= 0.96


def test_tasks_of_unequal_numbers_of_episodes_weigh_the_same() -> None:
    ragged = [np.array([1.0]), np.array([0.0, 0.0, 0.0, 0.0])]
    np.testing.assert_array_equal(stats.profile(ragged, np.array([0.5])), [0.5])
    assert stats.probability_of_improvement(ragged, [np.array([1.0]), np.array([-1.0])]) == 0.75


def test_the_same_generator_gives_the_same_interval() -> None:
    scores = made(5, 7, 0.3)
    once, again = (stats.interval(scores, stats.iqm, rng=rng(), resamples=50) for _ in range(2))
    assert once == again


table = arrays(
    np.float64, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.floats(-5, 5)
)


@given(scores=table)
def test_aggregates_lie_between_the_extremes_and_move_with_the_scores(scores: np.ndarray) -> None:
    for statistic in (stats.iqm, stats.median, stats.mean):
        value = statistic(scores)
        assert scores.min() - 1e-9 <= value <= scores.max() + 1e-9
        assert statistic(2 * scores + 3) == pytest.approx(2 * value + 3, abs=1e-9)
    assert stats.probability_of_improvement(scores, scores) == pytest.approx(0.5)


@pytest.mark.parametrize("statistic", RLIABLE_INTERVALS, ids=lambda f: f.__name__)
def test_nan_and_empty_scores_are_refused(statistic: stats.Statistic) -> None:
    with pytest.raises(DataError, match="run 1 on task 0 is NaN"):
        statistic(np.array([[1.0, 2.0], [np.nan, 3.0]]))
    with pytest.raises(DataError, match=r"at least one of each: \(0, 3\)"):
        statistic(np.zeros((0, 3)))
    with pytest.raises(DataError, match="no task"):
        stats.profile([], TAUS)
    with pytest.raises(DataError, match="2 and 3 tasks"):
        stats.probability_of_improvement(np.zeros((1, 2)), np.zeros((1, 3)))
    with pytest.raises(DataError, match="confidence"):
        stats.interval(np.zeros((1, 2)), stats.iqm, rng=rng(), confidence=95.0, resamples=2)
