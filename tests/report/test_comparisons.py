"""Figures that compare: every number is in them, under-trained points look it, nothing lingers."""

import numpy as np
import pytest
from matplotlib.patches import Rectangle, StepPatch

from scaledq.report.comparisons import (
    Curve,
    improvement_bars,
    improvement_profile,
    scaling_curves,
    short,
)
from scaledq.report.figures import svg
from scaledq.report.powerlaw import fit
from scaledq.report.stats import Estimate

GAINS = {"Pong": -0.5, "Breakout": 2.0, "Freeway": 0.1}


def test_bars_are_sorted_and_in_percent() -> None:
    figure = improvement_bars(GAINS, of="ours over theirs", colour="#0072b2")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Pong", "Freeway", "Breakout"]
    widths = [patch.get_width() for patch in axes.patches if isinstance(patch, Rectangle)]
    assert widths == pytest.approx([-50, 10, 200])


def test_a_profile_falls_by_one_game_at_each_improvement() -> None:
    figure = improvement_profile(GAINS, of="ours", colour="#0072b2")
    (steps,) = figure.axes[0].patches
    assert isinstance(steps, StepPatch)
    values, edges, _ = steps.get_data()
    np.testing.assert_allclose(edges, [-50, 10, 200])
    np.testing.assert_allclose(values, [2 / 3, 1 / 3])


def test_scaling_draws_points_intervals_and_the_law_one_size_ahead() -> None:
    sizes = [1e5, 1e6, 1e7]
    scores = [Estimate(v, 0.9 * v, 1.1 * v) for v in (0.1, 0.2, 0.4)]
    curve = Curve(sizes, scores, [False, True, False], fit(sizes, [0.1, 0.2, 0.4]), 1e8)
    figure = scaling_curves(
        {"ours": curve}, axis="parameters", score="IQM", colours={"ours": "#0072b2"}
    )
    lines = figure.axes[0].lines
    points = [line for line in lines if line.get_marker() == "o"]
    assert [line.get_markerfacecolor() for line in points] == ["#0072b2", "white", "#0072b2"]
    assert max(float(np.max(line.get_xdata())) for line in lines) == pytest.approx(1e8)
    assert "parameters" in svg(figure, name="x", about="scaling")


@pytest.mark.parametrize(
    ("value", "text"), [(7, "7"), (61_900, "61.9k"), (2.5e6, "2.5M"), (1.19e12, "1.19T")]
)
def test_large_numbers_are_written_short(value: float, text: str) -> None:
    assert short(value) == text
