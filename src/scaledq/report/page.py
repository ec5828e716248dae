"""The report: one HTML page that opens from disk, needs no network, and says how sure it is.

`page(ReportData)` is a pure function. The frame, with its style and its few lines of script, is
page.html (see `markup`); figures are inline SVG, videos and table files are embedded.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

import numpy as np

from scaledq.core.protocol import SCALED_QL
from scaledq.report import figures, markup, scores, stats, tables, words
from scaledq.report.content import Health, ReportData, Section, Video
from scaledq.report.scores import Normal
from scaledq.report.stats import Estimate
from scaledq.report.tables import Cell, Column, Table

__all__ = ["Health", "ReportData", "Section", "Video", "page"]


@dataclass(frozen=True, slots=True)
class Computed:
    """What several parts of a page share, by label."""

    normal: Normal | None
    colours: dict[str, str]
    raw: dict[str, dict[str, Estimate | None]]
    aggregates: dict[str, dict[str, Estimate]]
    """Of the methods that were scored on every task."""

    @property
    def score(self) -> str:
        return f"{self.normal}-normalised score" if self.normal else "raw score"


def page(data: ReportData) -> str:
    """The whole page."""
    found = _compute(data)
    parts = {
        "Result": _result(data, found),
        **{section.title: _section(section) for section in data.sections},
        "What ran": markup.facts(data.facts),
        "Over all tasks": _overall(data, found),
        "Task by task": _by_task(data, found),
        "Videos": _videos(data),
        "What it thinks": _stills(data),
        "Learning curves": _curves(data, found),
        "Learning health": _health(data),
        "Protocol": _protocol(data),
        "How to reproduce": _commands(data),
    }
    return markup.document(
        data.title, parts, foot="Made by scaledq. Click a column's heading to sort by it."
    )


def normal_of(found: scores.Scores) -> Normal | None:
    """The best normalisation that all tasks have: human, else behaviour, else none."""
    kinds: tuple[Normal, ...] = ("human", "behaviour")
    for kind in kinds:
        if all(scores.reference(task, kind, found) for task in found.tasks):
            return kind
    return None


def _compute(data: ReportData) -> Computed:
    normal = normal_of(data.scores)
    whole = [m for m in data.methods if normal and not data.scores.lacking(m)]
    labels = {method: data.label(method) for method in data.methods}
    return Computed(
        normal=normal,
        colours=figures.palette(
            list(labels.values()), grey=[labels[m] for m in data.scores.recorded]
        ),
        raw={
            label: {
                task: data.scores.estimate(
                    method, task, rng=data.rng(method, task), resamples=data.resamples
                )
                for task in data.scores.tasks
            }
            for method, label in labels.items()
        },
        aggregates={labels[m]: _aggregates(data, m, normal) for m in whole if normal},
    )


def _aggregates(data: ReportData, method: str, normal: Normal) -> dict[str, Estimate]:
    rng, resamples = data.rng(method), data.resamples
    found = scores.aggregate(data.scores, method, normal, rng=rng, resamples=resamples)
    subset = scores.agreed(data.scores.tasks)
    if normal == "human" and 0 < len(subset) < len(data.scores.tasks):
        name = f"IQM of {len(subset)} with agreed human score"
        found |= scores.aggregate(
            data.scores,
            method,
            normal,
            rng=data.rng(method, "agreed"),
            tasks=subset,
            statistics={name: stats.iqm},
            resamples=resamples,
        )
    return found


def _result(data: ReportData, found: Computed) -> str:
    subject, parts = data.label(data.subject), []
    iqms = {label: estimates["IQM"] for label, estimates in found.aggregates.items()}
    if found.normal is None:
        parts.append(markup.paragraph(words.without_normal()))
    elif subject not in iqms:
        gaps = words.listed(data.scores.lacking(data.subject))
        parts.append(
            markup.paragraph(
                f"{subject} was not scored on {gaps}, so nothing is said over all tasks."
            )
        )
    else:
        count, score = len(data.scores.tasks), f"{found.normal}-normalised"
        parts.append(markup.paragraph(words.headline(subject, iqms, score=score, tasks=count)))
        parts.append(_tiles(iqms, found, count))
        parts.append(markup.paragraph(words.meaning(data, found.normal), "note"))
    parts += [markup.paragraph(remark, "note") for remark in data.remarks]
    parts += [markup.paragraph(line, "warning") for line in [words.warning(data)] if line]
    return "\n".join(parts)


def _tiles(iqms: Mapping[str, Estimate], found: Computed, count: int) -> str:
    tiles = []
    for label, e in iqms.items():
        value, low, high = (tables.number(x, 3) for x in (e.value, e.low, e.high))
        tiles.append(
            f'<div class="tile" style="--tile: {figures.css(found.colours[label])}">'
            f'<span class="name">{escape(label)}</span><b>{value} <small>IQM</small></b>'
            f"<span>[{low}, {high}]</span></div>"
        )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _overall(data: ReportData, found: Computed) -> str:
    if not found.normal or not found.aggregates:
        return ""
    labels = {data.label(m): m for m in data.methods}
    table = tables.aggregate_table(
        found.aggregates,
        {label: data.scores.resampled(labels[label]) for label in found.aggregates},
        caption=f"Aggregates of the {found.score}, with 95 % stratified bootstrap intervals",
    )
    missing = [label for label, method in labels.items() if label not in found.aggregates]
    note = f"Not scored on every task, so not here: {words.listed(missing)}." if missing else ""
    return (
        f'<div class="pair">{_panels(found)}{_profile(data, found)}</div>{markup.table(table)}'
        f"{markup.paragraph(note, 'note') if note else ''}"
    )


def _panels(found: Computed) -> str:
    drawn = []
    for name in scores.STATISTICS:
        bars = {label: estimates[name] for label, estimates in found.aggregates.items()}
        figure = figures.interval_bars({name: bars}, colours=found.colours)
        drawn.append(f"<div>{figures.svg(figure, name=markup.anchor(name), about=name)}</div>")
    caption = f"The {found.score}; of the optimality gap, less is better."
    return (
        f'<figure><div class="panels">{"".join(drawn)}</div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _profile(data: ReportData, found: Computed) -> str:
    assert found.normal
    columns = {
        m: scores.normalised(data.scores, m, found.normal)
        for m in data.methods
        if data.label(m) in found.aggregates
    }
    ends = [np.quantile(np.concatenate(parts), [0.02, 0.97]) for parts in columns.values()]
    low, high = np.min(ends), np.max(ends)
    taus = np.linspace(min(0.0, low), max(high * 1.05, 0.1), 201)
    curves = {}
    for method, parts in columns.items():
        rng = data.rng(method, "profile")
        band = stats.profile_band(parts, taus, rng=rng, resamples=data.resamples)
        curves[data.label(method)] = (stats.profile(parts, taus), band)
    several = all(len(data.scores.runs(m)) > 1 for m in columns if m not in data.scores.recorded)
    drawn = figures.performance_profile(
        curves,
        taus,
        colours=found.colours,
        score=found.score,
        of="runs" if several else "episodes",
    )
    caption = (
        "Performance profile: higher is better everywhere; bands are pointwise 95 % intervals."
    )
    return markup.figure(drawn, "profile", caption)


def _by_task(data: ReportData, found: Computed) -> str:
    raw = markup.table(tables.score_table(found.raw))
    if not found.normal:
        return raw
    spans = {t: scores.reference(t, found.normal, data.scores) for t in data.scores.tasks}
    values = {
        label: {t: scores.rescaled(e, s) for t, e in by_task.items() if e and (s := spans[t])}
        for label, by_task in found.raw.items()
    }
    bars = figures.task_bars(values, colours=found.colours, score=found.score)
    caption = f"{found.score.capitalize()}; intervals are in the figure and in the files below"
    table = tables.normalised_table(values, caption=caption)
    drawn = markup.figure(bars, "tasks", f"{found.score.capitalize()} of each task.")
    return f'{raw}<div class="pair">{drawn}<div>{markup.table(table)}</div></div>'


def _videos(data: ReportData) -> str:
    out = []
    for video in data.videos:
        source = markup.data_uri(video.mp4, "video/mp4")
        out.append(
            f'<figure><video controls muted loop playsinline preload="metadata" src="{source}">'
            f"</video><figcaption><b>{escape(video.task)}</b>. {escape(video.caption)}"
            "</figcaption></figure>"
        )
    columns = 2 if len(out) in (2, 4) else 3
    return f'<div class="videos" style="--columns: {columns}">{"".join(out)}</div>' if out else ""


def _stills(data: ReportData) -> str:
    out = []
    for video in data.videos:
        for still in video.stills:
            source = markup.data_uri(still.jpeg, "image/jpeg")
            out.append(
                f'<figure><img alt="{escape(video.task)}" src="{source}"><figcaption>'
                f"<b>{escape(video.task)}</b>. {escape(still.caption)}</figcaption></figure>"
            )
    if not out:
        return ""
    about = markup.paragraph(
        "Moments of these episodes: each action's distribution of returns, the best value until "
        "then, and in red which pixels the best action's lead depends on.",
        "note",
    )
    return f'{about}<div class="videos" style="--columns: 3">{"".join(out)}</div>'


def _curves(data: ReportData, found: Computed) -> str:
    logged = {name for rows in data.curves.values() for row in rows for name in row}
    if not logged & set(data.quantities):
        return ""
    fresh = figures.palette([*found.colours, *(c for c in data.curves if c not in found.colours)])
    colours = {label: found.colours.get(label, fresh[label]) for label in data.curves}
    keys = (
        f'<span style="--key: {figures.css(colour)}">{escape(label)}</span>'
        for label, colour in colours.items()
    )
    drawn = []
    for name in [name for name in data.quantities if name in logged]:
        figure = figures.learning_curves(data.curves, [name], colours=colours, legend=False)
        drawn.append(f"<figure>{figures.svg(figure, name=name, about=name)}</figure>")
    note = markup.paragraph(
        "Thin: as logged. Thick: running mean over a twentieth of the curve.", "note"
    )
    return (
        f'<div class="legend">{"".join(keys)}</div><div class="curves">{"".join(drawn)}</div>{note}'
    )


def _health(data: ReportData) -> str:
    if not data.health:
        return ""
    columns = ("quantity", "value", "usually", "what usually helps", "run")
    rows: list[tuple[Cell, ...]] = [
        (h.quantity.replace("_", " "), h.value, h.usual, h.advice or "in its usual range", h.run)
        for h in data.health
    ]
    table = Table(
        name="health",
        caption="At the end of training",
        columns=tuple(Column(name, digits=3) for name in columns),
        rows=tuple(rows),
    )
    return markup.table(table)


def _section(section: Section) -> str:
    drawn = "".join(f"<figure>{svg}</figure>" for svg in section.svgs)
    shown = "".join(markup.table(table) for table in section.tables)
    return f'{markup.paragraph(section.text)}<div class="pair">{drawn}</div>{shown}'


def _protocol(data: ReportData) -> str:
    rows: list[tuple[Cell, ...]] = []
    for name, phrase in words.RULES.items():
        ours, paper = (f"{getattr(p, name):,g}" for p in (data.protocol, SCALED_QL))
        rows.append((phrase.replace("{}", "").replace("  ", " ").strip(), ours, paper))
    names = ("rule", f"here ({data.protocol.name})", f"paper ({SCALED_QL.name})")
    table = Table(
        name="protocol",
        caption="How episodes were played; a step is one decision",
        columns=tuple(Column(name) for name in names),
        rows=tuple(rows),
    )
    notes = [markup.paragraph(line, "note") for line in words.recordings(data)]
    return "".join([markup.table(table), *notes])


def _commands(data: ReportData) -> str:
    return f"<pre>{escape(chr(10).join(data.commands))}</pre>" if data.commands else ""
