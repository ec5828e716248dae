"""Curves of learning while playing: by hand, on a few episodes."""

import numpy as np
import pytest

from scaledq.report.comparisons import Band, task_curves
from scaledq.report.figures import palette
from scaledq.study.curves import POINTS, Course, mean_curves, rows
from scaledq.study.paper import FIGB1


def course(*points: tuple[float, float, float]) -> Course:
    frames, returns, episodes = np.array(points, np.float64).reshape(-1, 3).T
    return Course(frames, returns, episodes)


def rngs(*labels: str) -> dict[str, np.random.Generator]:
    return {label: np.random.default_rng(0) for label in labels}


def test_a_stretch_is_the_mean_over_its_episodes_and_keeps_the_last_that_is_known() -> None:
    """A curve of 20 stretches of 10 frames: two rows in the third, one in the fifth, one last."""
    run = course((25, 1.0, 3), (30, 5.0, 1), (41, -2.0, 1), (200, 7.0, 2))
    found = mean_curves({"a": [run]}, rngs("a"))["a"]
    assert POINTS == 20
    assert found.x.tolist() == [10.0 * k for k in range(3, 21)]
    assert found.mean.tolist() == [2.0, 2.0] + [-2.0] * 15 + [7.0]
    assert found.low.tolist() == found.high.tolist() == found.mean.tolist(), "one seed, no band"


def test_a_point_is_the_mean_over_seeds_with_its_interval_once_all_have_one() -> None:
    early, late = course((10, 0.0, 1), (200, 4.0, 1)), course((50, 2.0, 9), (150, 2.0, 1))
    found = mean_curves({"a": [early, late], "b": [course()]}, rngs("a", "b"))
    assert set(found) == {"a"}, "a label that has ended no episode has no curve"
    band = found["a"]
    assert band.x[0] == 50
    assert band.mean[[0, -1]].tolist() == [1.0, 3.0]
    assert (band.low[0], band.high[0]) == (0.0, 2.0)
    assert ((band.low <= band.mean) & (band.mean <= band.high)).all()
    first, *_, last = rows({"Pong": found})
    assert first[:3] == ("Pong", "a", 50)
    assert (last[3].value, last[3].low, last[3].high) == (3.0, 2.0, 4.0)


TASKS = pytest.mark.parametrize("tasks", [("Pong",), ("Pong", "Qbert", "Freeway")])


@TASKS
def test_the_legend_of_figure_b1_stays_within_the_picture(tasks: tuple[str, ...]) -> None:
    x, labels = np.array([1.0, 2.0]), [arm.label for arm in FIGB1.arms]
    curves = {task: {label: Band(x, x, x, x) for label in labels} for task in tasks}
    figure = task_curves(curves, colours=palette(labels))
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box, whole = legend.get_window_extent(), figure.bbox
    assert whole.x0 <= box.x0 < box.x1 <= whole.x1
    assert whole.y0 <= box.y0 < box.y1 <= whole.y1


@TASKS
def test_every_task_has_a_panel_and_every_arm_a_line_of_its_own(tasks: tuple[str, ...]) -> None:
    x = np.array([1.0, 2.0])
    labels = ("ours", "scratch", "other")
    curves = {task: {label: Band(x, x, x - 1, x + 1) for label in labels} for task in tasks}
    colours = {"ours": "#111111", "scratch": "#222222", "other": "#111111"}
    axes = task_curves(curves, colours=colours).axes
    assert [axis.get_title(loc="left") for axis in axes] == list(tasks)
    for axis in axes:
        looks = {(line.get_color(), str(line.get_linestyle())) for line in axis.lines}
        assert len(looks) == len(labels), "arms that share a colour differ in their dashes"
