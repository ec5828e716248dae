"""What a study says in tables: ours beside the published, claims, power laws.

Every row of the summary carries its scale, seeds, steps and hardware, so that nobody can take a
miniature run for the paper's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scaledq.core.errors import DataError
from scaledq.core.protocol import SCALED_QL
from scaledq.report import powerlaw, scores
from scaledq.report import tables as report
from scaledq.report.comparisons import Curve
from scaledq.report.stats import Estimate
from scaledq.report.tables import Cell, Column, Table
from scaledq.run.folder import Run
from scaledq.study.cost import cost
from scaledq.study.results import Results
from scaledq.study.spec import Arm, Panel

AXES = ("parameters", "transitions", "operations")
"""What a family can grow in."""


@dataclass(frozen=True, slots=True)
class Family:
    """The arms of one scaling curve, by size."""

    name: str
    axis: str
    arms: tuple[Arm, ...]
    curve: Curve
    why: str
    """Why there is no law; empty where there is one."""


def sizes(run: Run) -> dict[str, float]:
    """How large a run was, along each axis."""
    return {
        "parameters": float(run.facts["parameters"]),
        "transitions": float(sum(run.facts["transitions"])),
        "operations": cost(run.config, run.tasks).operations,
    }


def families(results: Results, axis: str) -> list[Family]:
    """Every curve that varies along `axis` and has at least two points."""
    out = []
    for panel in results.panels:
        arms = [a for a in results.arms(panel) if a.family and results.runs.get((panel, a.label))]
        for name in dict.fromkeys(arm.family for arm in arms):
            members = [arm for arm in arms if arm.family == name]
            at = {a.label: sizes(results.runs[panel, a.label][0])[axis] for a in members}
            if len(set(at.values())) > 1:
                members.sort(key=lambda arm: at[arm.label])
                out.append(_family(results, name, axis, members, [at[a.label] for a in members]))
    return out


def _family(
    results: Results, name: str, axis: str, arms: Sequence[Arm], at: Sequence[float]
) -> Family:
    drawn = [results.draws(arm) for arm in arms]
    estimates = [results.estimate(arm) for arm in arms]
    runs = [results.runs[arm.panel, arm.label] for arm in arms]
    hollow = [bool(untrained(run[0])) for run in runs]
    law, why = None, ""
    try:
        draws = np.stack([draws for _, draws in drawn], axis=1)
        law = powerlaw.fit(at, [value for value, _ in drawn], draws)
    except DataError as error:
        why = str(error)
    ahead = at[-1] ** 2 / at[-2] if at[-1] > at[-2] else 2 * at[-1]
    return Family(name, axis, tuple(arms), Curve(at, estimates, hollow, law, ahead), why)


def untrained(run: Run) -> str:
    """Why a run may have been stopped too early; empty where nothing says so."""
    seen = run.config.batch_size * run.config.steps / max(1, sum(run.facts["transitions"]))
    losses = [row["loss"] for row in run.metrics if "loss" in row]
    reasons = ["its loss was still falling"] if powerlaw.still_falling(losses) else []
    reasons += [f"it saw {seen:.2g} of its data once"] if seen < 1 else []
    return " and ".join(reasons)


def summary(results: Results) -> Table:
    """A row an arm: ours, the published, and what ours was made with."""
    study = results.plan.study
    columns = [Column("arm"), Column("data"), *_heads(results)]
    columns += [Column("paper", digits=3), Column("printed in"), Column("seeds"),
                Column("parameters"), Column("steps"), Column("batch"), Column("transitions"),
                Column("hours a run", digits=2), Column("scale"), Column("hardware")]  # fmt: skip
    rows: list[tuple[Cell, ...]] = []
    for arm in study.arms:
        known = arm.panel in results.panels and arm in results.arms(arm.panel)
        ours = _ours(results, arm) if known else (None,) * len(_heads(results))
        cells: list[Cell] = [arm.label, arm.panel, *ours]
        cells += [arm.published.value if arm.published else None,
                  arm.published.source if arm.published else "—"]  # fmt: skip
        rows.append((*cells, *_made(results, arm)))
    caption = (
        f"{study.title}, ours at scale {results.plan.scale.name} beside the paper's. Brackets: "
        f"95 % bootstrap intervals. Protocol: {_protocol(results)}"
    )
    return Table(name="summary", caption=caption, columns=tuple(columns), rows=tuple(rows))


def _heads(results: Results) -> list[Column]:
    """Of our own numbers: the statistic, or each task's raw score where no statistic has sense."""
    study, tasks = results.plan.study, next(iter(results.panels.values())).tasks
    if study.normal == "raw":
        return [Column(f"{task}, raw score") for task in tasks]
    heads = [Column(f"{study.normal}-normalised {study.statistic}", digits=3)]
    agreed = len(scores.agreed(tasks))
    if study.normal == "human" and 0 < agreed < len(tasks):
        heads.append(Column(f"of {agreed} with an agreed human score", digits=3))
    return heads


def _ours(results: Results, arm: Arm) -> tuple[Cell, ...]:
    """The numbers below `_heads`."""
    found = results.panels[arm.panel]
    if results.plan.study.normal == "raw":
        return tuple(
            found.estimate(
                arm.label,
                task,
                rng=results.rng("raw", arm.label, task),
                resamples=results.resamples,
            )
            for task in found.tasks
        )
    both: tuple[Cell, ...] = (results.estimate(arm), results.agreed(arm))
    return both[: len(_heads(results))]


def _made(results: Results, arm: Arm) -> tuple[Cell, ...]:
    """Seeds, parameters, steps, batch, transitions, hours, scale, hardware."""
    runs, scale = results.runs.get((arm.panel, arm.label), ()), results.plan.scale.name
    if not runs:
        return (None,) * 6 + (scale, "—" if arm.recipe else "the logs")
    first = runs[0]
    seconds = [run.facts["seconds"] for run in runs if "seconds" in run.facts]
    hours = sum(seconds) / len(seconds) / 3600 if seconds else None
    hardware = ", ".join(dict.fromkeys(str(run.facts["hardware"]) for run in runs))
    return (
        len({run.config.seed for run in runs}),
        first.facts["parameters"],
        first.config.steps,
        first.config.batch_size,
        sum(first.facts["transitions"]),
        hours,
        scale,
        hardware,
    )


def _protocol(results: Results) -> str:
    ours = results.plan.scale.run.protocol
    same = ours == SCALED_QL
    return f"{ours.name}." if same else f"{ours.name}, which is not the paper's ({SCALED_QL.name})."


def verdicts(results: Results) -> Table:
    """A row a claim of the paper: whether it holds here."""
    rows: list[tuple[Cell, ...]] = []
    for claim in results.plan.study.claims:
        found = results.finding(claim)
        said: tuple[Cell, ...] = ("not run", None, None, "an arm has no scores")
        if found:
            said = (found.verdict, found.difference, found.improvement, found.reason)
        rows.append((claim.text, *said[:3], claim.source, said[3] or "—"))
    return Table(
        name="claims",
        caption=f"The paper's claims at scale {results.plan.scale.name}; a verdict needs two seeds "
        "or more and a 95 % interval of the difference that leaves out 0",
        columns=(
            Column("claim"),
            Column("here"),
            Column("difference", digits=3),
            Column("P(better)", digits=2),
            Column("claimed in"),
            Column("why not told"),
        ),
        rows=tuple(rows),
    )


def laws(results: Results) -> Table:
    """A row a family and axis: the fitted law, what it predicts next, and at what cost."""
    rows: list[tuple[Cell, ...]] = []
    for axis in AXES:
        for family in families(results, axis):
            curve, law = family.curve, family.curve.law
            ahead = curve.ahead or 0.0
            early = [a.label for a, u in zip(family.arms, curve.undertrained, strict=True) if u]
            early = ["every point"] if len(early) == len(family.arms) else early
            rows.append((
                family.name,
                axis,
                len(curve.sizes),
                law.exponent if law else None,
                law.explained if law else None,
                round(ahead),
                law.predict(ahead) if law else None,
                _hours(results, family, ahead),
                family.why or (f"under-trained: {'; '.join(early)}" if early else "—"),
            ))  # fmt: skip
    return Table(
        name="power-laws",
        caption="Score = c x size^b, fitted through the arms of each family. A point is "
        "under-trained where its loss still fell or it saw its data less than once",
        columns=(
            Column("family"),
            Column("size in"),
            Column("points"),
            Column("b", digits=3),
            Column("R²", digits=3),
            Column("next size"),
            Column("predicted score", digits=3),
            Column("hours for it", digits=2),
            Column("mind"),
        ),
        rows=tuple(rows),
    )


def _hours(results: Results, family: Family, ahead: float) -> float | None:
    """Of a run of the next size: the hours of the known ones, continued as a power law."""
    hours = []
    for arm in family.arms:
        taken = [r.facts.get("seconds", 0) for r in results.runs[arm.panel, arm.label]]
        hours.append(sum(taken) / len(taken) / 3600)
    try:
        return powerlaw.fit(family.curve.sizes, hours).predict(ahead).value
    except DataError:
        return None


def by_task(results: Results, panel: Panel) -> list[Table]:
    """Raw and normalised scores of each task, for one panel."""
    found = results.panels[panel]
    raw: dict[str, dict[str, Estimate | None]] = {
        arm.label: {
            task: found.estimate(
                arm.label,
                task,
                rng=results.rng("raw", arm.label, task),
                resamples=results.resamples,
            )
            for task in found.tasks
        }
        for arm in results.arms(panel)
    }
    out = [report.score_table(raw)]
    normal = results.plan.study.normal
    spans = {task: scores.reference(task, normal, found) for task in found.tasks}
    if normal != "raw" and all(spans.values()):
        values = {
            label: {t: scores.rescaled(e, s) for t, e in row.items() if e and (s := spans[t])}
            for label, row in raw.items()
        }
        out.append(report.normalised_table(values, caption=f"{normal}-normalised scores"))
    return out
