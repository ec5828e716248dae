"""Figures say what they were given, and leave nothing behind in the process."""

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scaledq.core.errors import DataError
from scaledq.report import figures
from scaledq.report.stats import Estimate

E = Estimate
COLOURS = figures.palette(["ours", "theirs", "behaviour"], grey=["behaviour"])
TAUS = np.linspace(0, 2, 5)


def profile() -> Figure:
    line = np.array([1.0, 0.8, 0.5, 0.2, 0.0])
    band = np.clip(np.stack([line - 0.1, line + 0.1]), 0, 1)
    return figures.performance_profile({"ours": (line, band)}, TAUS, colours=COLOURS)


def bars() -> Figure:
    found = {"ours": E(0.5, 0.4, 0.6), "theirs": E(-0.1, -0.2, 0.0)}
    return figures.interval_bars({"IQM": found, "mean": found, "gap": found}, colours=COLOURS)


def per_task() -> Figure:
    ours = {"Pong": E(0.5, 0.4, 0.6), "Atlantis": E(50.0, 40.0, 60.0)}
    return figures.task_bars({"ours": ours, "theirs": {"Pong": None}}, colours=COLOURS)


def curves() -> Figure:
    rows = [{"step": i, "loss": 1 / (1 + i)} for i in range(100)]
    return figures.learning_curves(
        {"ours": rows, "theirs": [{"step": 3, "td": 0.5}]}, ("loss", "td", "nll"), colours=COLOURS
    )


def points(axes: Axes, line: int) -> np.ndarray:
    """The x and y of a line's points, [2, T]."""
    return np.asarray(axes.lines[line].get_xydata()).T


@pytest.mark.parametrize("draw", [profile, bars, per_task, curves])
def test_a_figure_is_a_readable_svg_that_can_stand_in_a_page(draw) -> None:
    text = figures.svg(draw(), name="demo", about="what it shows")
    root = ElementTree.fromstring(text)
    assert root.get("aria-label") == "what it shows"
    assert root.get("viewBox")
    assert "http" not in text
    assert not re.search(r"#[0-9a-f]{6}", text), "a colour that dark mode cannot change"
    ids = {node.get("id") for node in root.iter() if node.get("id")}
    assert all(name.startswith("demo-") for name in ids if name)
    assert set(re.findall(r'(?:url\(|href=")#([\w-]+)', text)) <= ids


def test_the_same_numbers_give_the_same_bytes() -> None:
    first, again = (figures.svg(bars(), name="demo", about="") for _ in range(2))
    assert first == again


def test_bars_show_their_number_and_their_interval() -> None:
    axes = bars().axes
    assert [a.get_title(loc="left") for a in axes] == ["IQM", "mean", "gap"]
    assert [t.get_text() for t in axes[0].texts] == ["0.500", "-0.100"]
    widths = [p.get_path().get_extents(p.get_patch_transform()).width for p in axes[0].patches]
    np.testing.assert_allclose(widths, [0.5, 0.1])
    assert points(axes[0], 0)[0].tolist() == [0.4, 0.6]


def test_long_labels_are_broken_so_that_bars_keep_their_room() -> None:
    long = "Behaviour (the logs' own episodes)"
    figure = figures.interval_bars(
        {"IQM": {long: E(1.0, 0.9, 1.1)}}, colours={long: COLOURS["ours"]}
    )
    (shown,) = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert max(len(line) for line in shown.splitlines()) <= 16


def test_tasks_far_above_the_human_turn_the_axis_logarithmic() -> None:
    (axes,) = per_task().axes
    assert axes.get_xscale() == "symlog"
    assert [t.get_text() for t in axes.get_yticklabels()] == ["Pong", "Atlantis"]


def test_a_profile_is_drawn_as_given() -> None:
    (axes,) = profile().axes
    assert points(axes, 0)[1].tolist() == [1, 0.8, 0.5, 0.2, 0]


def test_curves_are_drawn_of_what_was_logged_only() -> None:
    axes = curves().axes
    assert [a.get_title(loc="left") for a in axes] == ["loss", "td"]
    logged, smooth = points(axes[0], 0)[1], points(axes[0], 1)[1]
    np.testing.assert_allclose(logged, 1 / (1 + np.arange(100)))
    assert smooth[-1] == pytest.approx(np.mean([1 / (1 + i) for i in range(95, 100)]))
    with pytest.raises(DataError, match="none of nll"):
        figures.learning_curves({"ours": [{"step": 1, "loss": 1.0}]}, ("nll",), colours=COLOURS)


def test_each_label_has_a_colour_of_its_own_and_references_are_grey() -> None:
    assert COLOURS["behaviour"] == figures.GREY
    many = figures.palette([str(i) for i in range(7)])
    assert len(set(many.values())) == 7


@pytest.mark.parametrize("suffix", [".svg", ".pdf", ".png"])
def test_figures_are_saved_as_their_suffix_says(suffix: str, tmp_path: Path) -> None:
    figures.save(bars(), tmp_path / f"figure{suffix}")
    start = (tmp_path / f"figure{suffix}").read_bytes()[:5]
    assert start == {".svg": b"<?xml", ".pdf": b"%PDF-", ".png": b"\x89PNG\r"}[suffix]


def test_drawing_leaves_no_global_state() -> None:
    before = dict(matplotlib.rcParams)
    figures.svg(curves(), name="demo", about="")
    assert dict(matplotlib.rcParams) == before
    code = "import sys, scaledq.report.page; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
