"""Power laws: exact ones come back exactly, numpy's fit agrees, intervals cover the truth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaledq.core.errors import DataError
from scaledq.core.seeds import stream
from scaledq.report.powerlaw import fit, still_falling

SIZES = [1e6, 3e6, 1e7, 8e7]


@given(st.floats(-2, 2), st.floats(0.01, 100))
def test_points_on_a_law_give_that_law(exponent: float, factor: float) -> None:
    law = fit(SIZES, [factor * x**exponent for x in SIZES])
    assert law.exponent.value == pytest.approx(exponent, abs=1e-9)
    assert law.factor.value == pytest.approx(factor, rel=1e-6)
    if abs(exponent) > 1e-3:
        assert law.explained == pytest.approx(1.0)
    ahead = law.predict(1e9)
    assert ahead.value == pytest.approx(factor * 1e9**exponent, rel=1e-6)
    assert ahead.low == pytest.approx(ahead.value, rel=1e-9)


def test_the_line_is_numpys_and_each_draw_has_its_own() -> None:
    rng = stream(0, "laws")
    scores = np.exp(rng.normal(size=4))
    draws = scores * np.exp(0.1 * rng.normal(size=(50, 4)))
    law = fit(SIZES, scores.tolist(), draws)
    slope, height = np.polyfit(np.log(SIZES), np.log(scores), 1)
    assert law.exponent.value == pytest.approx(slope)
    assert law.factor.value == pytest.approx(np.exp(height))
    expected = [np.polyfit(np.log(SIZES), np.log(row), 1) for row in draws]
    np.testing.assert_allclose(law.lines, expected)
    left = np.log(scores) - np.polyval([slope, height], np.log(SIZES))
    assert law.explained == pytest.approx(1 - left.var() / np.log(scores).var())


def test_a_95_percent_interval_covers_the_truth_about_that_often() -> None:
    rng, covered = stream(1, "laws"), 0
    truth = np.array([0.1 * x**0.3 for x in SIZES])
    for _ in range(200):
        runs = truth * np.exp(0.05 * rng.normal(size=(10, 4)))
        drawn = runs[rng.integers(10, size=(300, 10, 4)), np.arange(4)].mean(axis=1)
        law = fit(SIZES, runs.mean(axis=0).tolist(), drawn)
        covered += law.exponent.low <= 0.3 <= law.exponent.high
    assert 0.85 < covered / 200 < 0.99


@pytest.mark.parametrize(
    ("sizes", "scores", "draws", "says"),
    [
        ([1e6, 1e6, 2e6], [0.1, 0.2, 0.3], None, "three sizes"),
        ([1e6, 2e6, 3e6], [0.1, -0.2, 0.3], None, "above 0"),
        ([1e6, 2e6, 3e6], [0.1, 0.2, 0.3], [[0.1, 0.0, 0.3]] * 4, "100%.*draws"),
    ],
)
def test_what_has_no_logarithm_is_refused(
    sizes: list[float], scores: list[float], draws: list[list[float]] | None, says: str
) -> None:
    with pytest.raises(DataError, match=says):
        fit(sizes, scores, None if draws is None else np.array(draws))


def test_a_loss_that_still_falls_is_told_from_one_at_rest() -> None:
    rng = stream(2, "laws")
    noise = 0.01 * rng.normal(size=200)
    assert still_falling((np.linspace(1, 0, 200) + noise).tolist())
    assert not still_falling((np.exp(-np.arange(200) / 10) + noise).tolist())
    assert not still_falling((np.linspace(0, 1, 200) + noise).tolist())
    assert not still_falling([3.0, 2.0, 1.0])
