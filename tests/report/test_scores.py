"""From rows to arrays: runs and episodes, normalisation, unequal protocols."""

from typing import Any

import numpy as np
import pytest

from scaledq.core.errors import DataError
from scaledq.report import scores as sc
from scaledq.report import stats
from scaledq.report.stats import Estimate

from .conftest import rows_of

Rows = list[dict[str, Any]]


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_rows_are_grouped_by_method_task_and_run(two_games: Rows) -> None:
    scores = sc.group(two_games)
    assert scores.methods == ("scaled_ql", "bc (greedy)", "behaviour")
    assert scores.tasks == ("Breakout", "Freeway")
    assert scores.protocol == "quick"
    np.testing.assert_array_equal(scores.column("bc (greedy)", "Freeway"), [1, 2, 3])


def test_logs_of_the_behaviour_are_one_run_under_a_protocol_of_their_own(two_games: Rows) -> None:
    scores = sc.group(two_games)
    assert scores.recorded == {"behaviour": ("quick/persistent",)}
    np.testing.assert_array_equal(scores.column("behaviour", "Freeway"), [4, 4.5, 5])
    assert scores.resampled("behaviour") == "2 to 3 logged episodes"


def test_with_one_run_its_episodes_are_resampled_with_more_the_runs() -> None:
    first = rows_of("bc", "Freeway", [1.0, 3.0], run="a")
    one = sc.group(first)
    two = sc.group(first + rows_of("bc", "Freeway", [6.0, 7.0, 8.0], run="b"))
    np.testing.assert_array_equal(one.column("bc", "Freeway"), [1, 3])
    np.testing.assert_array_equal(two.column("bc", "Freeway"), [2, 7])
    assert (one.resampled("bc"), two.resampled("bc")) == ("2 episodes of one run", "2 runs")


def test_human_normalised_scores_are_0_for_random_play_and_1_for_the_human() -> None:
    scores = sc.group(rows_of("x", "Breakout", [1.7, 30.5, 16.1]))
    (column,) = sc.normalised(scores, "x", "human")
    np.testing.assert_allclose(column, [0, 1, 0.5])


def test_dqn_normalised_scores_are_1_for_its_best_iteration() -> None:
    scores = sc.group(rows_of("x", "Breakout", [1.7, 126.62]))
    (column,) = sc.normalised(scores, "x", "dqn")
    np.testing.assert_allclose(column, [0, 1])


def test_a_task_of_ones_own_is_normalised_by_random_play_and_behaviour() -> None:
    rows = rows_of("x", "Mine", [5.0, 9.0]) + rows_of("random", "Mine", [1.0])
    assert sc.reference("Mine", "behaviour", sc.group(rows)) is None
    scores = sc.group(rows + rows_of("behaviour", "Mine", [2.0, 4.0]))
    (column,) = sc.normalised(scores, "x", "behaviour")
    np.testing.assert_allclose(column, [2, 4])
    worse = sc.group(rows + rows_of("behaviour", "Mine", [0.5]))
    with pytest.raises(DataError, match="a 'behaviour' that beats it"):
        sc.normalised(worse, "x", "behaviour")


def test_variants_and_other_tasks_have_no_human_score() -> None:
    scores = sc.group(rows_of("x", "Freeway:m1d0", [1.0]) + rows_of("x", "CartPole-v1", [9.0]))
    assert [sc.reference(task, "human", scores) for task in scores.tasks] == [None, None]
    assert [sc.is_atari(task) for task in scores.tasks] == [False, True]
    with pytest.raises(DataError, match="CartPole-v1 has no human-normalised score"):
        sc.aggregate(scores, "x", "human", rng=rng())


def test_aggregates_of_one_run_are_over_its_mean_score_of_each_task(two_games: Rows) -> None:
    found = sc.aggregate(sc.group(two_games), "scaled_ql", "human", rng=rng(), resamples=200)
    freeway, breakout = 22 / 29.6, (17 - 1.7) / (30.5 - 1.7)
    assert found["IQM"].value == pytest.approx((freeway + breakout) / 2)
    assert found["optimality gap"].value == pytest.approx(1 - (freeway + breakout) / 2)
    assert found["IQM"].low < found["IQM"].value < found["IQM"].high


def test_aggregates_of_several_runs_are_those_of_the_array_of_runs_and_tasks() -> None:
    rows = []
    for run, (freeway, breakout) in {"a": (10, 3), "b": (20, 9), "c": (26, 6)}.items():
        rows += rows_of("x", "Freeway", [freeway - 1.0, freeway + 1.0], run=run)
        rows += rows_of("x", "Breakout", [float(breakout)], run=run)
    found = sc.aggregate(sc.group(rows), "x", "human", rng=rng(), resamples=200)
    table = np.array([[3, 10], [9, 20], [6, 26]]) - [1.7, 0]
    assert found["IQM"].value == pytest.approx(stats.iqm(table / [28.8, 29.6]))
    expected = stats.interval(table / [28.8, 29.6], stats.iqm, rng=rng(), resamples=200)
    np.testing.assert_allclose((found["IQM"].low, found["IQM"].high), expected)


def test_two_of_the_papers_games_have_no_agreed_human_score() -> None:
    assert sc.agreed(("Carnival", "Freeway", "Pooyan", "Freeway:m1d0", "Mine")) == ("Freeway",)


def test_a_method_that_misses_a_task_has_no_aggregate(two_games: Rows) -> None:
    scores = sc.group(two_games + rows_of("random", "Freeway", [0.0]))
    assert scores.lacking("random") == ("Breakout",)
    assert scores.estimate("random", "Breakout", rng=rng()) is None
    with pytest.raises(DataError, match="random was not scored on Breakout"):
        sc.aggregate(scores, "random", "human", rng=rng())


def test_unequal_protocols_are_refused_and_both_are_named(two_games: Rows) -> None:
    mixed = two_games + rows_of("iql", "Freeway", [1.0], protocol="scaled-ql")
    with pytest.raises(DataError, match=r"'quick' \(scaled_ql\) and 'scaled-ql' \(iql\)"):
        sc.group(mixed)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"score": float("nan")}, "not finite"), ({"score": None}, "not a number")],
)
def test_a_score_that_is_no_number_is_refused(change: dict[str, Any], words: str) -> None:
    (row,) = rows_of("x", "Freeway", [1.0])
    with pytest.raises(DataError, match=words):
        sc.group([row | change])


def test_an_episode_that_is_there_twice_is_refused(two_games: Rows) -> None:
    with pytest.raises(DataError, match=r"has episode 0 of Freeway twice; evaluate it again"):
        sc.group(two_games + rows_of("scaled_ql", "Freeway", [20.0]))


def test_rows_that_are_missing_or_lack_a_field_are_refused() -> None:
    (row,) = rows_of("x", "Freeway", [1.0])
    del row["protocol"]
    with pytest.raises(DataError, match="lacks protocol"):
        sc.group([row])
    with pytest.raises(DataError, match="scaledq evaluate"):
        sc.group([])


def test_a_raw_interval_is_rescaled_with_its_score() -> None:
    assert sc.rescaled(Estimate(3.0, 2.0, 5.0), sc.Range(1.0, 3.0)) == Estimate(1.0, 0.5, 2.0)
