"""What a study's runs have scored so far: from run folders to one `Scores` for each panel.

An arm's seed counts when all its runs are finished and have played every episode that the scale
asks for; the others are named, never filled in.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scaledq.core.errors import DataError
from scaledq.core.seeds import stream
from scaledq.data.store import open_store
from scaledq.data.view import View
from scaledq.play.score import ScoreRow, read_scores, write_scores
from scaledq.report import claims, scores, stats
from scaledq.report.claims import Finding
from scaledq.report.scores import Scores
from scaledq.report.stats import Estimate
from scaledq.run.evaluate import behaviour_rows
from scaledq.run.folder import Run
from scaledq.study.execute import Place, found, rows, unplayed
from scaledq.study.plan import Entry, Plan
from scaledq.study.spec import Arm, Claim, Panel

STATISTICS = {"IQM": stats.iqm, "median": stats.median}


class NothingScoredError(DataError):
    """No arm of a study is complete yet."""


@dataclass(frozen=True, slots=True)
class Results:
    """All that can be said now."""

    plan: Plan
    panels: dict[Panel, Scores]
    """Methods are the labels of arms; panels of which nothing was scored are left out."""
    runs: dict[tuple[Panel, str], tuple[Run, ...]]
    """The finished runs of each arm, seed by seed."""
    missing: tuple[str, ...]
    """Sentences on what is not complete."""
    resamples: int = 2000

    def rng(self, *names: str) -> np.random.Generator:
        """A generator of its own for each number, so that no arm changes another's interval."""
        return stream(0, "study", *names)

    def arms(self, panel: Panel) -> tuple[Arm, ...]:
        """Those that have scores, in the study's order."""
        known = self.panels[panel].methods if panel in self.panels else ()
        return tuple(a for a in self.plan.study.arms if a.panel == panel and a.label in known)

    def estimate(self, arm: Arm, statistic: str = "") -> Estimate:
        """The study's statistic, or another one, of an arm's normalised scores."""
        name = statistic or self.plan.study.statistic
        return self._aggregate(arm, name, ())

    def agreed(self, arm: Arm) -> Estimate | None:
        """The same over the games with an agreed human score, where those are not all."""
        tasks = scores.agreed(self.panels[arm.panel].tasks)
        every = self.panels[arm.panel].tasks
        if self.plan.study.normal != "human" or not 0 < len(tasks) < len(every):
            return None
        return self._aggregate(arm, self.plan.study.statistic, tasks)

    def draws(self, arm: Arm) -> tuple[float, np.ndarray]:
        """The study's statistic of an arm, and the bootstrap's draws [K] of it."""
        return scores.drawn(
            self.panels[arm.panel],
            arm.label,
            self.plan.study.normal,
            statistic=STATISTICS[self.plan.study.statistic],
            rng=self.rng(arm.panel, arm.label),
            resamples=self.resamples,
        )

    def finding(self, claim: Claim) -> Finding | None:
        """Whether the claim holds here; None where one of its arms was not scored."""
        known = {arm.label for arm in self.arms(claim.panel)}
        if not {claim.better, claim.worse} <= known:
            return None
        return claims.judge(
            self.panels[claim.panel],
            claim.better,
            claim.worse,
            normal=self.plan.study.normal,
            statistic=STATISTICS[self.plan.study.statistic],
            rng=self.rng("claim", claim.panel, claim.better, claim.worse),
            resamples=self.resamples,
        )

    def _aggregate(self, arm: Arm, statistic: str, tasks: tuple[str, ...]) -> Estimate:
        return scores.aggregate(
            self.panels[arm.panel],
            arm.label,
            self.plan.study.normal,
            rng=self.rng(arm.panel, arm.label, statistic, *tasks),
            tasks=tasks,
            statistics={statistic: scores.STATISTICS[statistic]},
            resamples=self.resamples,
        )[statistic]


def gather(plan: Plan, place: Place, *, resamples: int = 2000) -> Results:
    """Reads every run of the plan, and the logs' own scores. Trains nothing.

    Raises:
      NothingScoredError: no arm is complete yet.
      DataError: a score that is not finite; rows under unequal protocols (both are named).
    """
    found_rows: dict[Panel, list[dict[str, Any]]] = {}
    runs: dict[tuple[Panel, str], tuple[Run, ...]] = {}
    missing = [f"{label}: there is no recipe {name!r} yet." for label, name in plan.lacking.items()]
    wanted = {entry.arm.label: len(plan.seeds) for entry in plan.entries if entry.jobs}
    for entry in plan.entries:
        arm = entry.arm
        if entry.jobs:
            done, played = _played(entry, plan, place)
            runs[arm.panel, arm.label] = (*runs.get((arm.panel, arm.label), ()), *done)
        else:
            played, remark = _logged(arm, plan, place)
            missing += [remark] if remark else []
        found_rows.setdefault(arm.panel, []).extend(played)
    short = [
        f"{label} ({panel}) {seeds} of {wanted[label]}"
        for (panel, label), done in runs.items()
        if (seeds := len({run.config.seed for run in done})) < wanted[label]
    ]
    missing += [f"Seeds done where some are missing: {'; '.join(short)}."] if short else []
    recorded = [entry.arm.label for entry in plan.entries if not entry.jobs]
    trained = {panel: any(runs.get((panel, a.label)) for a in plan.study.arms) for panel in
               plan.study.panels}  # fmt: skip
    panels: dict[Panel, Scores] = {
        panel: scores.group(rows_, recorded=recorded)
        for panel, rows_ in found_rows.items()
        if trained[panel]
    }
    if not panels:
        raise NothingScoredError(
            f"study {plan.study.name}: no arm is complete yet in {place.runs}; run "
            f"`scaledq study {plan.study.name} --scale {plan.scale.name} --store DIR`"
        )
    return Results(plan, panels, runs, tuple(dict.fromkeys(missing)), resamples)


def _played(entry: Entry, plan: Plan, place: Place) -> tuple[list[Run], list[dict[str, Any]]]:
    """The runs and the rows of one seed of an arm: both empty unless all of it is complete."""
    done, played = [], []
    for key in entry.jobs:
        run = found(plan.jobs[key], place)
        selection = entry.arm.selection or plan.jobs[key].config.selection
        if run is None or not run.finished or unplayed(run, selection, plan):
            return [], []
        done.append(run)
        for row in rows(run, selection, plan):
            named = replace(row, method=entry.arm.label, run=f"seed {entry.seed}")
            played.append(asdict(named))
    return done, played


def note_behaviour(plan: Plan, place: Place) -> None:
    """Keeps the scores of the logs' own episodes beside the runs, to be told where no logs are."""
    for entry in plan.entries:
        if not entry.jobs:
            opened = [open_store(path) for path in place.stores]
            made = behaviour_rows(opened, _tasks(plan), _view(entry.arm, plan))
            write_scores(_noted(entry.arm, plan, place), made)


def _noted(arm: Arm, plan: Plan, place: Place) -> Path:
    return place.runs / f"{plan.scale.name}-{arm.panel}-logs.jsonl"


def _tasks(plan: Plan) -> tuple[str, ...]:
    return plan.tasks or plan.scale.run.tasks


def _view(arm: Arm, plan: Plan) -> View:
    return plan.scale.suboptimal if arm.panel == "sub-optimal" else plan.scale.run.view


def _logged(arm: Arm, plan: Plan, place: Place) -> tuple[list[dict[str, Any]], str]:
    """The scores of the logs' own episodes, or a remark that they are lacking."""
    made, why = _behaviour(arm, plan, place)
    if why:
        return [], f"{arm.label}: its scores are lacking: {why}."
    short = [task for task in _tasks(plan) if task not in {row.task for row in made}]
    if short:
        return [], f"{arm.label}: no whole episode of {', '.join(short)} in this part of the logs."
    return [asdict(replace(row, method=arm.label)) for row in made], ""


def _behaviour(arm: Arm, plan: Plan, place: Place) -> tuple[list[ScoreRow], str]:
    """From the logs, or where they are not at hand from what was noted of them; else why not."""
    why = "no --store was given"
    if place.stores:
        try:
            opened = [open_store(path) for path in place.stores]
            return behaviour_rows(opened, _tasks(plan), _view(arm, plan)), ""
        except DataError as error:
            why = str(error)
    noted = _noted(arm, plan, place)
    return (read_scores(noted), "") if noted.exists() else ([], why)
