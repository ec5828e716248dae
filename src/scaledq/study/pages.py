"""What a reader opens: a study's HTML page, and docs/results.md over several studies.

A study's folder holds study.json, which says what was asked and where its runs lie; everything
else in it is drawn anew from those runs by `draw`, without training.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from matplotlib.figure import Figure

from scaledq.core.config import config, from_json, to_json
from scaledq.core.errors import RunError, suggest
from scaledq.core.files import write_atomic
from scaledq.report import figures, tables
from scaledq.report.content import Health, ReportData, Section
from scaledq.report.page import page
from scaledq.report.tables import Cell, Column, Table
from scaledq.run.films import films
from scaledq.run.folder import Run
from scaledq.run.report import health_of
from scaledq.study import draw, recordings
from scaledq.study import tables as study_tables
from scaledq.study.execute import Place
from scaledq.study.paper import STUDIES
from scaledq.study.plan import Plan, plan
from scaledq.study.results import NothingScoredError, Results, gather
from scaledq.study.scales import SCALES

ASKED, PAGE = "study.json", "report.html"
SHOWN = ("arm", "data", "paper", "printed in", "seeds", "parameters", "steps", "transitions",
         "scale", "hardware")  # fmt: skip
"""Columns of the summary in docs/results.md, beside those with our own numbers."""
OURS = ("normalised", "agreed", "raw score")
"""Words in the names of those."""


@config
class Asked:
    """One study as it was asked for."""

    study: str
    scale: str
    seeds: tuple[int, ...]
    runs: str
    """The folder of the runs."""
    stores: tuple[str, ...] = ()

    @property
    def plan(self) -> Plan:
        """Raises ConfigError, with a suggestion, where there is no such study or scale."""
        for what, name, known in (("study", self.study, STUDIES), ("scale", self.scale, SCALES)):
            if name not in known:
                raise RunError(f"unknown {what} {name!r}; {suggest(name, known)}")
        return plan(STUDIES[self.study], SCALES[self.scale], seeds=self.seeds)

    @property
    def place(self) -> Place:
        return Place(Path(self.runs), self.stores)


def write_asked(asked: Asked, folder: Path) -> None:
    """Writes study.json, with places as seen from the study's own folder."""

    def seen(path: str) -> str:
        return path if "://" in path else os.path.relpath(Path(path).resolve(), folder.resolve())

    there = replace(asked, runs=seen(asked.runs), stores=tuple(map(seen, asked.stores)))
    write_atomic(folder / ASKED, to_json(there))


def read_asked(folder: Path) -> Asked:
    """Inverse of `write_asked`; raises RunError where there is none."""
    try:
        asked = from_json(Asked, (folder / ASKED).read_bytes())
    except OSError as error:
        raise RunError(f"{folder} is not a study's folder: it has no {ASKED}") from error
    stores = tuple(s if "://" in s else str(folder / s) for s in asked.stores)
    return replace(asked, runs=str(folder / asked.runs), stores=stores)


def draw_study(folder: Path, *, videos: bool = True, resamples: int = 2000) -> Path:
    """Draws everything in a study's folder anew, and returns its page. Trains nothing.

    Raises:
      RunError: it is not a study's folder.
      DataError: no arm is complete yet.
    """
    asked = read_asked(folder)
    found = gather(asked.plan, asked.place, resamples=resamples)
    shown = draw.exhibits(found)
    draw.write(shown, folder)
    write_atomic(folder / PAGE, page(_content(found, shown, folder, videos=videos)))
    return folder / PAGE


def _content(found: Results, shown: draw.Exhibits, folder: Path, *, videos: bool) -> ReportData:
    study, scale = found.plan.study, found.plan.scale
    panel = next(iter(found.panels))
    arms = [arm for arm in found.arms(panel) if arm.recipe]
    subject = next((arm for arm in arms if arm.recipe == "scaled_ql"), arms[0])
    first = {arm.label: found.runs[panel, arm.label][0] for arm in arms}
    clips, unfilmed = films(first[subject.label]) if videos else ((), ())
    return ReportData(
        title=f"{study.title}, at scale {scale.name}",
        scores=found.panels[panel],
        subject=subject.label,
        protocol=scale.run.protocol,
        facts=_facts(found, first),
        curves={label: run.metrics for label, run in first.items()},
        health=tuple(_health(first)),
        videos=clips,
        commands=_commands(found, folder),
        remarks=(*_remarks(found), *unfilmed),
        sections=_sections(found, shown),
        resamples=found.resamples,
    )


def _facts(found: Results, first: dict[str, Run]) -> dict[str, str]:
    plan_, runs = found.plan, list(first.values())
    facts = {
        "Scale": f"{plan_.scale.name}: {plan_.scale.about}",
        "Seeds": _seeds(plan_),
        "Tasks": ", ".join(next(iter(found.panels.values())).tasks),
        "Hardware": ", ".join(dict.fromkeys(str(run.facts["hardware"]) for run in runs)),
    }
    versions = runs[0].facts["versions"]
    return facts | {"Versions": ", ".join(f"{k} {v}" for k, v in versions.items())}


def _health(first: dict[str, Run]) -> list[Health]:
    """What lies outside its usual range; a run's own page shows the rest."""
    every = [number for label, run in first.items() for number in health_of(run, label)]
    return [number for number in every if number.advice]


def _remarks(found: Results) -> tuple[str, ...]:
    """What a reader must know before the numbers."""
    scale = found.plan.scale
    names = (
        "Labels name the paper's networks; what stands for them at this scale says the column of "
        "parameters.",
    )
    return (*found.plan.study.remarks, *(names if scale.name != "paper" else ()), *found.missing)


def _sections(found: Results, shown: draw.Exhibits) -> tuple[Section, ...]:
    svgs = tuple(
        figures.svg(d.figure, name=f"study-{d.name}", about=d.caption) for d in shown.drawings
    )
    ours = Section("Ours beside the published", found.plan.study.question, svgs, shown.tables)
    rest = [
        Section(f"Task by task, {panel} data", f"Scores on the {panel} logs.", (),
                tuple(replace(t, name=f"{t.name}-{panel}") for t in shown.by_task[panel]))
        for panel in list(found.panels)[1:]
    ]  # fmt: skip
    return (ours, *rest)


def _commands(found: Results, folder: Path) -> tuple[str, ...]:
    return (
        *found.plan.scale.data,
        command(found.plan),
        f"scaledq report {folder}  # draws it again; trains nothing",
    )


def command(asked: Plan) -> str:
    """What makes this study from nothing but its logs."""
    return (
        f"scaledq study {asked.study.name} --scale {asked.scale.name} --store store "
        f"--seeds {len(asked.seeds)}"
    )


def write_results(folders: Sequence[Path], out: Path) -> None:
    """docs/results.md: every study's numbers, with its scale, seeds and hardware in each row.

    Recordings among the folders become a section with a figure, which lies beside `out`. Nothing
    is written before all of it is known.

    Raises:
      RunError: a folder that is neither a study's nor a recording's.
      DataError: scores that cannot be told; a study without any is told of as not run.
    """
    recorded = [c for f in folders if recordings.is_recording(f) for c in recordings.curves(f)]
    studies = [read_asked(folder) for folder in folders if not recordings.is_recording(folder)]
    found = [_gathered(asked) for asked in studies]
    parts = _glance([results for results in found if isinstance(results, Results)])
    pictures: dict[str, Figure] = {}
    sections = zip(studies, found, _names(studies), _titles(studies), strict=True)
    for asked, results, name, title in sections:
        drawn = _drawn(results, f"{out.stem}-{name}")
        parts.append(_markdown(asked, results, title, drawn))
        pictures |= {name: drawing.figure for name, drawing in drawn.items()}
    if recorded:
        name = f"{out.stem}-recordings.svg"
        pictures[name] = recordings.drawing(recorded)
        parts.append(recordings.markdown(recorded, name))
    for name, figure in pictures.items():
        figures.save(figure, out.with_name(name))
    write_atomic(out, _results(parts))


def _results(parts: Sequence[str]) -> str:
    return "\n".join([
        "# Results\n",
        "Generated from score rows by `scaledq report`; "
        "do not edit. Every row says its scale, seeds, steps and hardware: numbers made at a small "
        "scale are not the paper's. Brackets are 95 % stratified bootstrap intervals: over "
        "training seeds where there are two or more, else over the episodes of the only one.\n",
        *parts,
    ])  # fmt: skip


def _names(studies: Sequence[Asked]) -> list[str]:
    """What each section's figures are named after: its study. One that is told of more than once
    adds its scale, and where that is the same too, a number."""
    names = [asked.study for asked in studies]
    both = [f"{asked.study}-{asked.scale}" for asked in studies]
    numbered = [
        f"{name}-{both[:i].count(name) + 1}" if both.count(name) > 1 else name
        for i, name in enumerate(both)
    ]
    return [
        name if names.count(name) == 1 else longer
        for name, longer in zip(names, numbered, strict=True)
    ]


def _titles(studies: Sequence[Asked]) -> list[str]:
    """Each section's heading, with its seeds where there are several of a study at one scale."""
    plans = [asked.plan for asked in studies]
    heads = [f"{p.study.title} (scale `{p.scale.name}`)" for p in plans]
    return [
        f"{head}, seeds {_seeds(p)}" if heads.count(head) > 1 else head
        for head, p in zip(heads, plans, strict=True)
    ]


def _seeds(asked: Plan) -> str:
    return ", ".join(map(str, asked.seeds))


def _gathered(asked: Asked) -> Results | NothingScoredError:
    """What is known of a study, or that nothing is yet."""
    try:
        return gather(asked.plan, asked.place)
    except NothingScoredError as error:
        return error


def _drawn(found: Results | NothingScoredError, name: str) -> dict[str, draw.Drawing]:
    """A study's drawings, by the names of their files."""
    drawings = draw.drawings(found) if isinstance(found, Results) else []
    return {f"{name}-{drawing.name}.svg": drawing for drawing in drawings}


def _glance(found: Sequence[Results]) -> list[str]:
    """Every claim once for each scale and its seeds, with its verdict; nothing where no study makes
    one. Scales and seeds are told where they are not the same everywhere."""
    heads = ("scale", "seeds")
    made = [(results.plan.scale.name, _seeds(results.plan)) for results in found]
    differ = [i for i in range(len(heads)) if len({how[i] for how in made}) > 1]
    rows: dict[tuple[Cell, ...], tuple[Cell, ...]] = {}
    for results, how in zip(found, made, strict=True):
        study, told = results.plan.study, [how[i] for i in differ]
        for claim, here, difference, _, source, _ in study_tables.verdicts(results).rows:
            row = (study.name, *told, claim, here, difference, source)
            key = (claim, source, study.tasks, *how)  # figure 5 repeats those of figure 2
            rows.setdefault(key, row)
    if not rows:
        return []
    table = Table(
        name="glance",
        caption="",
        columns=(
            Column("study"), *(Column(heads[i]) for i in differ), Column("claim"), Column("here"),
            Column("difference", digits=3), Column("claimed in"),
        ),
        rows=tuple(rows.values()),
    )  # fmt: skip
    return [
        "## The claims at a glance\n",
        "A claim holds, or does not, where the 95 % interval of the difference over two seeds or "
        "more leaves out 0. Differences are of the study's own statistic; of raw scores, how far "
        "the probability of improvement lies above one half.\n",
        tables.markdown(table),
    ]


def _markdown(
    asked: Asked,
    found: Results | NothingScoredError,
    title: str,
    drawn: Mapping[str, draw.Drawing],
) -> str:
    """One study's section; `drawn` is by the names of the files beside it."""
    study, scale = asked.plan.study, asked.plan.scale
    games = ", ".join(asked.plan.tasks or scale.run.tasks)
    lines = [f"## {title}\n", f"{study.question} Here: {games}.\n"]
    if isinstance(found, NothingScoredError):
        return "\n".join([*lines, f"Not run: {found}.\n"])
    laws = study_tables.laws(found)
    by_task = [
        replace(table, caption=f"On {panel} data: {table.caption}")
        for panel in found.panels
        for table in study_tables.by_task(found, panel)
    ]
    shown = (_narrow(study_tables.summary(found)), *by_task, *([laws] if laws.rows else []))
    for table in shown:
        lines += [f"{table.caption}.\n".replace("..", "."), tables.markdown(table)]
    lines += [f"![{drawing.caption}]({name})\n" for name, drawing in drawn.items()]
    lines += [f"- {line}" for line in draw.claims_in_words(found)]
    lines += [f"- {line}" for line in _remarks(found)]
    return "\n".join([*lines, f"\nMade by `{command(asked.plan)}`.\n"])


def _narrow(summary: Table) -> Table:
    """The summary without the columns that only its files need."""
    kept = [
        i
        for i, column in enumerate(summary.columns)
        if column.name in SHOWN or any(word in column.name for word in OURS)
    ]
    return replace(
        summary,
        columns=tuple(summary.columns[i] for i in kept),
        rows=tuple(tuple(row[i] for i in kept) for row in summary.rows),
    )
