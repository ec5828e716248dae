"""What a study leaves in its folder: figures as vector files, each with its numbers, and tables.

Nothing here trains or plays: everything is drawn from what `gather` found.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from scaledq.core.files import write_atomic
from scaledq.report import comparisons, figures, scores, stats, tables
from scaledq.report.stats import Estimate
from scaledq.report.tables import Cell, Column, Table
from scaledq.study import curves
from scaledq.study import tables as study_tables
from scaledq.study.results import Results
from scaledq.study.spec import Panel

THRESHOLDS = 201


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure and the numbers in it."""

    name: str
    caption: str
    figure: Figure
    table: Table


@dataclass(frozen=True, slots=True)
class Exhibits:
    """All that a study shows."""

    drawings: tuple[Drawing, ...]
    tables: tuple[Table, ...]
    """The summary, the claims, the power laws where there are families."""
    by_task: dict[Panel, tuple[Table, ...]]


def exhibits(results: Results) -> Exhibits:
    """Draws and computes everything, once."""
    return Exhibits(
        tuple(drawings(results)),
        tuple(every_table(results)),
        {panel: tuple(study_tables.by_task(results, panel)) for panel in results.panels},
    )


def drawings(results: Results) -> list[Drawing]:
    """The figures that the study asks for, of what has scores."""
    made: list[Drawing] = []
    for kind in results.plan.study.figures:
        match kind:
            case "scaling":
                made += _scaling(results)
            case "curves":
                made += _curves(results)
            case _:
                for panel in results.panels:
                    made += _of_panel(results, panel, kind)
    return made


def every_table(results: Results) -> list[Table]:
    """The summary, the claims, the power laws where there are families."""
    out = [study_tables.summary(results)]
    out += [study_tables.verdicts(results)] if results.plan.study.claims else []
    laws = study_tables.laws(results)
    return out + ([laws] if laws.rows else [])


def write(shown: Exhibits, out: Path) -> list[Path]:
    """Writes every figure as PDF and SVG with a CSV, and every table in three forms, to `out`."""
    written = []
    for drawing in shown.drawings:
        for suffix in ("pdf", "svg"):
            figures.save(drawing.figure, out / f"{drawing.name}.{suffix}")
            written.append(out / f"{drawing.name}.{suffix}")
        written.append(_put(out / f"{drawing.name}.csv", tables.csv(drawing.table)))
    named = [(table.name, table) for table in shown.tables]
    named += [(f"{t.name}-{panel}", t) for panel, every in shown.by_task.items() for t in every]
    for name, table in named:
        forms = {"csv": tables.csv, "md": tables.markdown, "tex": tables.latex}
        written += [_put(out / f"{name}.{end}", form(table)) for end, form in forms.items()]
    return written


def _put(path: Path, text: str) -> Path:
    write_atomic(path, text)
    return path


def colours(results: Results) -> dict[str, str]:
    """One colour for each arm of the study, grey for what was recorded."""
    arms = results.plan.study.arms
    labels = list(dict.fromkeys(arm.label for arm in arms))
    return figures.palette(labels, grey=[arm.label for arm in arms if not arm.recipe])


def _of_panel(results: Results, panel: Panel, kind: str) -> Iterator[Drawing]:
    several = len(results.plan.study.panels) > 1
    name = f"{kind}-{panel}" if several else kind
    about = f" ({panel} data)" if several else ""
    match kind:
        case "bars":
            yield from _bars(results, panel, name, about)
        case "profile":
            yield from _profile(results, panel, name, about)
        case "tasks":
            yield from _tasks(results, panel, name, about)
        case "improvement":
            yield from _improvement(results, panel, name, about)


def _bars(results: Results, panel: Panel, name: str, about: str) -> Iterator[Drawing]:
    arms, normal = results.arms(panel), results.plan.study.normal
    if normal == "raw":
        return
    bars = {
        statistic: {arm.label: results.estimate(arm, statistic) for arm in arms}
        for statistic in scores.STATISTICS
    }
    caption = f"Aggregates of the {normal}-normalised score{about}"
    rows = tuple(
        (arm.label, *(found[arm.label] for found in bars.values()),
         arm.published.value if arm.published else None)
        for arm in arms
    )  # fmt: skip
    heads = (*bars, f"paper ({results.plan.study.statistic})")
    table = Table(name=name, caption=caption, rows=rows,
                  columns=(Column("arm"), *(Column(h, digits=3) for h in heads)))  # fmt: skip
    figure = figures.interval_bars(bars, colours=colours(results), columns=2)
    yield Drawing(name, caption, figure, table)


def _profile(results: Results, panel: Panel, name: str, about: str) -> Iterator[Drawing]:
    found, normal = results.panels[panel], results.plan.study.normal
    columns = {a.label: scores.normalised(found, a.label, normal) for a in results.arms(panel)}
    top = max(float(np.quantile(np.concatenate(parts), 0.97)) for parts in columns.values())
    taus = np.linspace(0, max(top * 1.05, 0.1), THRESHOLDS)
    lines = {
        label: (
            stats.profile(parts, taus),
            stats.profile_band(
                parts, taus, rng=results.rng("profile", label), resamples=results.resamples
            ),
        )
        for label, parts in columns.items()
    }
    single = any(len(found.runs(label)) == 1 for label in lines if label not in found.recorded)
    figure = figures.performance_profile(
        lines,
        taus,
        colours=colours(results),
        score=f"{normal}-normalised score",
        of="episodes" if single else "runs",
    )
    rows = [
        (float(tau), *(Estimate(*map(float, (line[i], band[0, i], band[1, i])))
                       for line, band in lines.values()))
        for i, tau in enumerate(taus)
    ]  # fmt: skip
    caption = f"Performance profile{about}; bands are pointwise 95 % intervals"
    columns_ = (Column("tau", digits=3), *(Column(label, digits=3) for label in lines))
    table = Table(name=name, caption=caption, rows=tuple(rows), columns=columns_)
    yield Drawing(name, caption, figure, table)


def _tasks(results: Results, panel: Panel, name: str, about: str) -> Iterator[Drawing]:
    *_, table = study_tables.by_task(results, panel)
    labels = [column.name for column in table.columns[1:]]
    known = {arm.label for arm in results.arms(panel)}
    values: dict[str, dict[str, Estimate | None]] = {
        label: {str(row[0]): _estimate(row[i + 1]) for row in table.rows}
        for i, label in enumerate(labels)
        if label in known
    }
    normal = results.plan.study.normal
    score = "raw score" if normal == "raw" else f"{normal}-normalised score"
    figure = figures.task_bars(values, colours=colours(results), score=score)
    yield Drawing(name, f"{score.capitalize()} of each task{about}", figure, table)


def _improvement(results: Results, panel: Panel, name: str, about: str) -> Iterator[Drawing]:
    """Of the last trained arm over the first, task by task."""
    found, normal = results.panels[panel], results.plan.study.normal
    trained = [arm.label for arm in results.arms(panel) if arm.recipe]
    if len(trained) < 2:
        return
    base, ours = trained[0], trained[-1]
    pairs = [scores.normalised(found, label, normal) for label in (base, ours)]
    means = {
        task: (float(a.mean()), float(b.mean()))
        for task, a, b in zip(found.tasks, *pairs, strict=True)
    }
    gains = {task: (b - a) / abs(a) for task, (a, b) in means.items() if a}
    what, colour = f"{ours} over {base}", colours(results)[ours]
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (task, a, b, gains.get(task)) for task, (a, b) in means.items()
    )
    columns = (Column("task"), Column(base, digits=3), Column(ours, digits=3),
               Column("relative improvement", digits=3))  # fmt: skip
    for suffix, draw in (("", comparisons.improvement_bars),
                         ("-profile", comparisons.improvement_profile)):  # fmt: skip
        caption = f"Improvement of {what}{about}"
        table = Table(name=name + suffix, caption=caption, columns=columns, rows=rows)
        yield Drawing(name + suffix, caption, draw(gains, of=what, colour=colour), table)


def _scaling(results: Results) -> Iterator[Drawing]:
    study = results.plan.study
    for axis in study_tables.AXES:
        found = study_tables.families(results, axis)
        if not found:
            continue
        shades = figures.palette([family.name for family in found])
        score = f"{study.normal}-normalised {study.statistic}"
        figure = comparisons.scaling_curves(
            {family.name: family.curve for family in found}, axis=axis, score=score, colours=shades
        )
        rows = tuple(
            (arm.label, family.name, round(size), estimate, "yes" if hollow else "no")
            for family in found
            for arm, size, estimate, hollow in zip(
                family.arms, family.curve.sizes, family.curve.scores, family.curve.undertrained,
                strict=True,
            )
        )  # fmt: skip
        heads = ("arm", "family", axis, score, "under-trained")
        caption = f"{score} against {axis}; hollow points were stopped early"
        table = Table(name=f"scaling-{axis}", caption=caption, rows=rows,
                      columns=tuple(Column(head, digits=3) for head in heads))  # fmt: skip
        yield Drawing(f"scaling-{axis}", caption, figure, table)


def _curves(results: Results) -> Iterator[Drawing]:
    """Returns of the episodes that ended while learning online, task by task."""
    online = {
        label: [run for run in runs if run.config.online and len(run.config.tasks) == 1]
        for (_, label), runs in results.runs.items()
    }
    bands = {}
    for task in results.plan.tasks:
        of_task = {
            label: [curves.course(run) for run in runs if run.config.tasks == (task,)]
            for label, runs in online.items()
        }
        rngs = {label: results.rng("curves", task, label) for label in of_task}
        bands[task] = curves.mean_curves(of_task, rngs)
    bands = {task: every for task, every in bands.items() if every}
    if not bands:
        return
    caption = "Raw returns of episodes while learning online; bands are 95 % intervals over seeds"
    columns = (Column("task"), Column("arm"), Column("frames"), Column("return", digits=2))
    table = Table(name="curves", caption=caption, columns=columns, rows=tuple(curves.rows(bands)))
    figure = comparisons.task_curves(bands, colours=colours(results))
    yield Drawing("curves", caption, figure, table)


def _estimate(cell: Cell) -> Estimate | None:
    return cell if isinstance(cell, Estimate) else None


def claims_in_words(results: Results) -> Sequence[str]:
    """One line for each claim of the paper, with the numbers."""
    out = []
    for claim in results.plan.study.claims:
        found = results.finding(claim)
        if found is None:
            out.append(f"{claim.text}: not run here.")
            continue
        d = found.difference
        numbers = f"difference {d.value:.3f} [{d.low:.3f}, {d.high:.3f}]"
        because = f" ({found.reason})" if found.reason else ""
        out.append(f"{claim.text}: {found.verdict} at this scale{because}; {numbers}.")
    return out
