"""Figures that compare: methods game by game and while they learn, and families across sizes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from scaledq.report.figures import DASHES, INK, MUTED, RC, WIDTH, frame, panels, repeats
from scaledq.report.powerlaw import PowerLaw
from scaledq.report.stats import Estimate


@dataclass(frozen=True, slots=True)
class Curve:
    """One family across sizes."""

    sizes: Sequence[float]
    scores: Sequence[Estimate]
    undertrained: Sequence[bool]
    """Points whose training had not come to rest are drawn hollow."""
    law: PowerLaw | None = None
    ahead: float | None = None
    """The size up to which the law is drawn beyond its points."""


@rc_context(RC)
def improvement_bars(improvements: Mapping[str, float], *, of: str, colour: str) -> Figure:
    """task -> relative improvement (1 is 100 %): a bar a task, sorted; linear within 1 %."""
    order = sorted(improvements, key=lambda task: improvements[task])
    figure, axes = frame(WIDTH, 0.9 + 0.2 * len(order))
    axes.barh(range(len(order)), [100 * improvements[task] for task in order], color=colour)
    axes.set_xscale("symlog", linthresh=1)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}%"))
    axes.set(yticks=range(len(order)), yticklabels=order, ylim=(-0.6, len(order) - 0.4))
    axes.tick_params(axis="y", labelcolor=INK)
    axes.grid(visible=False, axis="y")
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.set_xlabel(f"improvement of {of} (log scale)")
    return figure


@rc_context(RC)
def improvement_profile(improvements: Mapping[str, float], *, of: str, colour: str) -> Figure:
    """The fraction of tasks that improve by more than each threshold."""
    values = np.sort(100 * np.array(list(improvements.values())))
    figure, axes = frame(WIDTH, 2.6)
    left = 1 - np.arange(len(values) + 1) / len(values)
    axes.stairs(left[1:-1], values, color=colour, linewidth=1.7) if len(values) > 1 else None
    axes.set_xscale("symlog", linthresh=1)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}%"))
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.set(ylim=(0, 1.02), xlabel=f"improvement of {of} τ", ylabel="fraction of games above τ")
    return figure


@rc_context(RC)
def scaling_curves(
    curves: Mapping[str, Curve], *, axis: str, score: str, colours: Mapping[str, str]
) -> Figure:
    """Score against size for each family, with intervals; fitted laws go a step beyond."""
    figure, axes = frame(WIDTH, 3.3)
    for i, (label, curve) in enumerate(curves.items()):
        colour = colours[label]
        values = [e.value for e in curve.scores]
        axes.plot(curve.sizes, values, color=colour, linestyle=DASHES[i % len(DASHES)], label=label)
        for size, e, hollow in zip(curve.sizes, curve.scores, curve.undertrained, strict=True):
            axes.plot([size, size], [e.low, e.high], color=colour, linewidth=1.1)
            face = "white" if hollow else colour
            axes.plot([size], [e.value], "o", color=colour, markerfacecolor=face, markersize=5)
        if curve.law and curve.ahead:
            x = np.geomspace(min(curve.sizes), curve.ahead, 40)
            at = [curve.law.predict(float(size)) for size in x]
            axes.plot(x, [e.value for e in at], color=colour, linewidth=0.9, alpha=0.7)
            low, high = [e.low for e in at], [e.high for e in at]
            axes.fill_between(x, low, high, color=colour, alpha=0.1, linewidth=0)
    axes.set_xscale("log")
    sizes = sorted({size for curve in curves.values() for size in curve.sizes})
    axes.set_xticks([sizes[0], sizes[len(sizes) // 2], sizes[-1]])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: short(x)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel=f"{axis} (log scale)", ylabel=score)
    axes.legend(loc="best", handlelength=2.6)
    return figure


class Band(NamedTuple):
    """A mean and its interval, all [P]."""

    x: Float[np.ndarray, "P"]
    mean: Float[np.ndarray, "P"]
    low: Float[np.ndarray, "P"]
    high: Float[np.ndarray, "P"]


@rc_context(RC)
def task_curves(
    curves: Mapping[str, Mapping[str, Band]],
    *,
    colours: Mapping[str, str],
    x: str = "emulator frames",
    y: str = "return of an episode",
) -> Figure:
    """task -> label -> curve: a panel a task. Labels of one colour differ in their dashes."""
    columns = min(2, len(curves))
    lines = -(-len(curves) // columns)
    labels = list(dict.fromkeys(label for every in curves.values() for label in every))
    legend = 0.2 * -(-len(labels) // 2)
    width = WIDTH if columns == 1 else 1.6 * WIDTH
    figure, grid = panels(lines, columns, width, 2.4 * lines + legend)
    dashes = dict(zip(labels, repeats(labels, colours), strict=True))
    for axes, (task, every) in zip(grid, curves.items(), strict=False):
        for label, band in every.items():
            colour, dash = colours[label], DASHES[dashes[label] % len(DASHES)]
            axes.fill_between(band.x, band.low, band.high, color=colour, alpha=0.13, linewidth=0)
            axes.plot(band.x, band.mean, color=colour, linestyle=dash, label=label,
                      marker="o", markersize=2.2)  # fmt: skip
        axes.set(title=task, xlabel=x, ylabel=y)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    for axes in grid[len(curves) :]:
        axes.remove()
    shown = {line.get_label(): line for axes in grid for line in axes.lines}
    handles = {label: shown[label] for label in labels}
    figure.legend(handles.values(), handles.keys(), loc="outside upper left",
                  ncols=1 + columns, handlelength=3.2)  # fmt: skip
    return figure


def short(value: int | float) -> str:
    """1234567 as 1.2M."""
    for size, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"
