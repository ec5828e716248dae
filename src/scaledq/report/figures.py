"""Figures fit for a paper, from plain numbers. No pyplot, no global state, vector output.

The keys of mappings are labels as they shall be read; one `palette` serves all figures of a page,
so that a method has one colour. Shapes: T thresholds.
"""

import io
import re
import textwrap
from collections.abc import Collection, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from scaledq.core.errors import DataError
from scaledq.core.files import write_atomic
from scaledq.report.stats import Estimate
from scaledq.report.tables import number

INK, MUTED, GRID = "#1c2128", "#57606a", "#d9dee4"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b")
"""Okabe and Ito's colours, which the common forms of colour blindness tell apart, and a brown."""
GREY = "#7d8590"
HATCHES = ("", "//////", "......")
"""Of bars whose colour was used before."""
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))

LABEL = 16
"""Letters in a line of a bar's label."""
WIDTH = 4.4
"""Inches; small enough for a phone's screen to leave the letters readable."""
RC: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 7,
    "axes.labelsize": 9,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "axes.titlecolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.7,
    "lines.solid_capstyle": "round",
    "figure.constrained_layout.h_pad": 0.06,
    "pdf.fonttype": 42,
    "svg.hashsalt": "scaledq",
}


def palette(labels: Sequence[str], *, grey: Collection[str] = ()) -> dict[str, str]:
    """A colour for each label, in order; those in `grey` (references) are grey."""
    free = iter(COLOURS * (1 + len(labels) // len(COLOURS)))
    return {label: GREY if label in grey else next(free) for label in labels}


@rc_context(RC)
def performance_profile(
    curves: Mapping[str, tuple[Float[np.ndarray, "T"], Float[np.ndarray, "2 T"]]],
    taus: Float[np.ndarray, "T"],
    *,
    colours: Mapping[str, str],
    score: str = "human-normalised score",
    of: str = "episodes",
) -> Figure:
    """The fraction `of` runs or episodes that score above each threshold; (line, band) a label."""
    figure, axes = frame(WIDTH, 3.3)
    for i, (label, (line, band)) in enumerate(curves.items()):
        colour = colours[label]
        axes.fill_between(taus, band[0], band[1], color=colour, alpha=0.16, linewidth=0)
        axes.plot(taus, line, color=colour, label=label, linestyle=DASHES[i % len(DASHES)])
    axes.set(xlim=(taus[0], taus[-1]), ylim=(0, 1.02))
    axes.set_xlabel(f"{score} τ")
    axes.set_ylabel(f"fraction of {of} above τ")
    if taus[0] < 1 < taus[-1]:
        axes.axvline(1, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)), zorder=0)
    axes.legend(loc="upper right", handlelength=2.6)
    return figure


@rc_context(RC)
def interval_bars(
    estimates: Mapping[str, Mapping[str, Estimate]],
    *,
    colours: Mapping[str, str],
    columns: int = 4,
    digits: int = 3,
) -> Figure:
    """One panel for each statistic: a bar for each label, its interval, and its number."""
    columns = min(columns, len(estimates))
    lines = -(-len(estimates) // columns)
    labels = list(next(iter(estimates.values())))
    tallest = max(len(textwrap.wrap(label, LABEL)) for label in labels)
    height = 0.62 + max(0.3, 0.05 + 0.16 * tallest) * len(labels)
    figure, grid = panels(lines, columns, WIDTH * columns / 2, height * lines)
    for i, (axes, (name, bars)) in enumerate(zip(grid, estimates.items(), strict=False)):
        _bars(axes, bars, labels, colours, digits)
        axes.set_title(name)
        if i % columns:
            axes.tick_params(labelleft=False)
    for axes in grid[len(estimates) :]:
        axes.remove()
    return figure


@rc_context(RC)
def task_bars(
    estimates: Mapping[str, Mapping[str, Estimate | None]],
    *,
    colours: Mapping[str, str],
    score: str = "human-normalised score",
) -> Figure:
    """label -> task -> estimate: for each task one bar a label, with its interval.

    Where some score exceeds 5 the axis is linear up to 1 and logarithmic beyond.
    """
    tasks = list(dict.fromkeys(task for bars in estimates.values() for task in bars))
    thick = 0.8 / len(estimates)
    again = repeats(list(estimates), colours)
    marks = {
        label: {"hatch": HATCHES[count % len(HATCHES)], "edgecolor": "white", "linewidth": 0}
        for label, count in zip(estimates, again, strict=True)
    }
    inches = 0.15 if len(tasks) <= 12 else 0.09
    height = 0.9 + len(tasks) * (0.12 + inches * len(estimates))
    figure, axes = frame(WIDTH, height)
    for i, (label, bars) in enumerate(estimates.items()):
        found = [(y, bars[task]) for y, task in enumerate(tasks) if bars.get(task)]
        heights = np.array([y - 0.4 + (i + 0.5) * thick for y, _ in found])
        values = [e.value for _, e in found if e]
        axes.barh(heights, values, height=thick * 0.86, color=colours[label], **marks[label])
        for y, (_, e) in zip(heights, found, strict=True):
            if e:
                axes.plot([e.low, e.high], [y, y], color=INK, linewidth=1)
    axes.set(yticks=range(len(tasks)), yticklabels=tasks, ylim=(len(tasks) - 0.45, -0.55))
    axes.tick_params(axis="y", labelcolor=INK)
    axes.grid(visible=False, axis="y")
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(score)
    highs = [e.high for bars in estimates.values() for e in bars.values() if e]
    if max(highs, default=0) > 5:
        axes.set_xscale("symlog", linthresh=1)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    keys = [Patch(facecolor=colours[label], label=label, **marks[label]) for label in estimates]
    columns = 2 if len(keys) > 3 else 3
    figure.legend(handles=keys, loc="outside upper left", ncols=columns, handlelength=1)
    return figure


@rc_context(RC)
def learning_curves(
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    quantities: Sequence[str],
    *,
    colours: Mapping[str, str],
    x: str = "step",
    columns: int = 2,
    legend: bool = True,
) -> Figure:
    """Rows of metrics.jsonl for each label; one panel for each quantity that some row has.

    A thin line shows what was logged, a thick one its running mean over a twentieth of the curve.

    Raises:
      DataError: no row has any of the quantities.
    """
    known = {name for rows in runs.values() for row in rows for name in row}
    shown = [name for name in quantities if name in known]
    if not shown:
        raise DataError(f"no learning curves: none of {', '.join(quantities)} was logged")
    columns = min(columns, len(shown))
    lines = -(-len(shown) // columns)
    figure, grid = panels(lines, columns, 3.2 * columns, 2.1 * lines + 0.3 * legend)
    for axes, quantity in zip(grid, shown, strict=False):
        for label, rows in runs.items():
            _curve(axes, rows, x, quantity, colour=colours[label], label=label)
        axes.set_title(quantity.replace("_", " "))
        axes.set_xlabel(x)
        axes.margins(x=0.01)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(_short))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(_short))
    for axes in grid[len(shown) :]:
        axes.remove()
    handles = {line.get_label(): line for axes in grid for line in axes.lines}
    found = {label: handles[label] for label in runs if label in handles}
    if legend:
        figure.legend(found.values(), found.keys(), loc="outside upper left", ncols=4)
    return figure


@rc_context(RC)
def returns_over_time(
    points: Sequence[tuple[float, float]], parts: Sequence[float | None]
) -> Figure:
    """Episodes as dots: where in its log each ended, from 0 to 1, and its return.

    Args:
      parts: the mean return in each of the equal parts of a log, drawn as steps; None leaves a gap.
    """
    figure, axes = frame(3.2, 2.3)
    where, returns = np.array(points, dtype=np.float64).T
    axes.plot(100 * where, returns, "o", color=COLOURS[0], alpha=0.4, markersize=2.4, mew=0)
    means = np.array([np.nan if part is None else part for part in parts])
    axes.stairs(means, np.linspace(0, 100, len(means) + 1), baseline=None, color=COLOURS[1], lw=1.7)
    axes.set(xlim=(-1, 101), xlabel="% of the log", ylabel="return")
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(_short))
    return figure


@rc_context(RC)
def shares(counts: Mapping[str, int], *, x: str) -> Figure:
    """A bar for each label: its part of all counts in %, as a number too where there is room."""
    figure, axes = frame(3.2, 2.3)
    parts = 100 * np.array(list(counts.values())) / max(sum(counts.values()), 1)
    axes.bar(range(len(parts)), parts, width=0.78, color=COLOURS[0])
    if len(parts) <= 6:
        for place, part in enumerate(parts):
            axes.text(place, part, f"{part:.3g}", ha="center", va="bottom", fontsize=8)
    step = -(-len(parts) // 10)
    axes.set_xticks(range(0, len(parts), step), list(counts)[::step])
    axes.grid(visible=False, axis="x")
    axes.set(xlabel=x, ylabel="% of transitions", ylim=(0, 1.12 * max(parts.max(initial=0), 1e-3)))
    return figure


def svg(figure: Figure, *, name: str, about: str) -> str:
    """An `<svg>` element to stand inside a page, in the page's own font and colours.

    Args:
      name: distinguishes its ids from those of the page's other figures.
      about: what a screen reader says.

    INK, MUTED, GRID, GREY and COLOURS become CSS variables (--ink, --muted, --grid, --grey,
    --colour-0 ...), so that the page can be light or dark.
    """
    out = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    as_text: dict[Any, Any] = {**RC, "svg.fonttype": "none"}
    with rc_context(as_text):
        figure.savefig(out, format="svg", metadata=nothing, transparent=True)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r' width="[^"]*pt" height="[^"]*pt"', "", text, count=1)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", text).replace("xlink:href", "href")
    for colour, variable in _variables().items():
        text = text.replace(colour, f"var({variable})")
    widest = f"max-width: {figure.get_figwidth() * 1.3:.1f}in"
    opening = f'<svg role="img" aria-label="{escape(about)}" style="{widest}"'
    return text.replace("<svg", opening, 1)


def save(figure: Figure, path: Path) -> None:
    """Writes a PDF, SVG or PNG, as the suffix says."""
    out = io.BytesIO()
    dateless = {"Date": None} if path.suffix == ".svg" else None
    with rc_context(RC):
        figure.savefig(out, format=path.suffix.lstrip("."), dpi=200, metadata=dateless)
    write_atomic(path, out.getvalue())


def css(colour: str) -> str:
    """A colour of the palette as the CSS variable that stands for it in a page."""
    return f"var({_variables()[colour]})"


def _variables() -> dict[str, str]:
    named = {INK: "--ink", MUTED: "--muted", GRID: "--grid", GREY: "--grey"}
    return named | {colour: f"--colour-{i}" for i, colour in enumerate(COLOURS)}


def frame(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure of so many inches, with one pair of axes."""
    figure, grid = panels(1, 1, width, height)
    return figure, grid[0]


def repeats(labels: Sequence[str], colours: Mapping[str, str]) -> list[int]:
    """How many labels before each have its colour: what tells apart more labels than colours."""
    found = [colours[label] for label in labels]
    return [found[:i].count(colour) for i, colour in enumerate(found)]


def panels(lines: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """An empty figure of so many inches, with axes line by line."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(lines, columns, squeeze=False).flat)


def _bars(
    axes: Axes,
    bars: Mapping[str, Estimate],
    labels: Sequence[str],
    colours: Mapping[str, str],
    digits: int,
) -> None:
    """Horizontal bars, first label on top; the number stands beyond the interval's end."""
    reach = max(max(abs(e.low), abs(e.high)) for e in bars.values()) or 1.0
    for y, label in enumerate(labels):
        e = bars[label]
        axes.barh(y, e.value, height=0.62, color=colours[label])
        axes.plot([e.low, e.high], [y, y], color=INK, linewidth=1.2)
        end = max(e.high, 0) + 0.03 * reach
        axes.text(end, y, number(e.value, digits), va="center", fontsize=8.5)
    low = min(0.0, *(e.low for e in bars.values()))
    short = [textwrap.fill(label, LABEL) for label in labels]
    axes.set(yticks=range(len(labels)), yticklabels=short, ylim=(len(labels) - 0.4, -0.6))
    axes.set_xlim(low * 1.05, max(0.0, *(e.high for e in bars.values())) + 0.24 * reach)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(axis="y", labelcolor=INK)
    axes.grid(visible=False, axis="y")
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.spines["left"].set_visible(False)


def _curve(
    axes: Axes, rows: Sequence[Mapping[str, Any]], x: str, y: str, *, colour: str, label: str
) -> None:
    points = [(row[x], row[y]) for row in rows if row.get(y) is not None and x in row]
    if not points:
        return
    steps, values = np.array(points, dtype=np.float64).T
    window = max(1, len(values) // 20)
    if window > 1:
        axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.35)
    axes.plot(steps, _running_mean(values, window), color=colour, label=label)


def _running_mean(values: Float[np.ndarray, "T"], window: int) -> Float[np.ndarray, "T"]:
    """Mean over the last `window` values, fewer at the start."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    return (sums[ends] - sums[starts]) / (ends - starts)


def _short(value: float, _: int) -> str:
    """1500 as 1.5k."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:.4g}"
