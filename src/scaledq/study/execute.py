"""How a plan becomes results: what is missing is trained and played, what is there is not repeated.

Runs lie in one folder, whatever study asked for them, so that studies share them. Everything can
be stopped at any moment and asked for again: training goes on from its checkpoint, and a policy
plays the tasks that it has no scores of.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal

from scaledq.core.errors import DataError, DivergedError
from scaledq.data.store import Store, open_store
from scaledq.play.policy import Selection
from scaledq.play.score import ScoreRow, label, read_scores
from scaledq.run.cluster import On, spread
from scaledq.run.config import RunConfig
from scaledq.run.evaluate import SEED, evaluate, method_name
from scaledq.run.folder import RUN, SCORES, Run, open_run
from scaledq.run.start import identified
from scaledq.run.train import train
from scaledq.study.plan import Job, Plan

State = Literal["done", "to play", "under way", "to train again", "to do"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a study finds its logs and puts its runs."""

    runs: Path
    stores: tuple[str, ...] = ()


def folder(job: Job, place: Place) -> Path | None:
    """Where the job's run is or will be; None before its source, which names it, is trained."""
    cfg = resolved(job, place)
    return place.runs / cfg.folder if cfg else None


def resolved(job: Job, place: Place) -> RunConfig | None:
    """The config with its stores and the weights of its source; None before those exist."""
    cfg = replace(job.config, stores=place.stores if job.config.logged else ())
    if job.source is None:
        return cfg
    lender = folder(job.source, place)
    if lender is None or not (lender / RUN).exists() or not open_run(lender).finished:
        return None
    return identified(replace(cfg, start=replace(cfg.start, run=str(lender))))


def found(job: Job, place: Place) -> Run | None:
    """The job's run, if it was begun."""
    where = folder(job, place)
    return open_run(where) if where and (where / RUN).exists() else None


def rows(run: Run, selection: Selection, plan: Plan) -> list[ScoreRow]:
    """The run's scores as the study wants them: its protocol, its seed, its number of episodes."""
    method = method_name(run, selection)
    path, protocol = run.folder / SCORES, label(plan.scale.run.protocol)
    if not path.exists():
        return []
    return [
        row
        for row in read_scores(path)
        if (row.method, row.seed, row.protocol) == (method, SEED, protocol)
        and row.episode < plan.scale.episodes
    ]


def unplayed(run: Run, selection: Selection, plan: Plan) -> tuple[str, ...]:
    """The run's tasks that still lack episodes; an episode that is told twice counts once."""
    played = {(row.task, row.episode) for row in rows(run, selection, plan)}
    have = [task for task, _ in played]
    return tuple(t for t in run.config.tasks if have.count(t) < plan.scale.episodes)


def state(key: str, plan: Plan, place: Place) -> State:
    """How far a job is. It is trained again where its weights were not kept, but something still
    has to play them or to start from them."""
    run = found(plan.jobs[key], place)
    if run is None:
        return "to do"
    if not run.finished:
        return "under way"
    lacks = any(unplayed(run, s, plan) for s in plan.selections(key))
    if not run.has_weights and (lacks or _awaited(key, plan, place)):
        return "to train again"
    return "to play" if lacks else "done"


def _awaited(key: str, plan: Plan, place: Place) -> bool:
    """Whether a job that is not done starts from this one."""
    heirs = [k for k, job in plan.jobs.items() if job.source and job.source.key == key]
    return any(state(heir, plan, place) != "done" for heir in heirs)


def recipe(plan: Plan) -> str:
    """The commands that make the scale's logs."""
    return "; ".join(plan.scale.data) or "see `scaledq ingest --help`"


def opened(plan: Plan, place: Place) -> list[Store]:
    """The stores, whatever they hold; raises DataError, with the recipe, where one is not there."""
    try:
        return [open_store(path) for path in place.stores]
    except DataError as error:
        raise DataError(f"{error}; the logs are made by: {recipe(plan)}") from error


def lacking(plan: Plan, place: Place, held: Sequence[Store]) -> str:
    """What the opened stores do not hold of the logs that the plan learns from, and which command
    makes it; empty where nothing is lacking."""
    tasks = dict.fromkeys(chain(*(job.config.logged for job in plan.jobs.values())))
    if tasks and not place.stores:
        return (
            f"study {plan.study.name} at scale {plan.scale.name} needs --store DIR; its logs are "
            f"made by: {recipe(plan)}"
        )
    absent = [task for task in tasks if not any(task in store for store in held)]
    if not absent:
        return ""
    return (
        f"{', '.join(place.stores)} has no logs of {', '.join(absent)}, which study "
        f"{plan.study.name} needs at scale {plan.scale.name}; they are made by: {recipe(plan)}"
    )


def stores(plan: Plan, place: Place) -> list[Store]:
    """The opened stores, checked to hold every task that is learnt from logs.

    Raises:
      DataError: there is none, or it lacks a task; the message says which command makes it.
    """
    held = opened(plan, place)
    fault = lacking(plan, place, held)
    if fault:
        raise DataError(fault)
    return held


def execute(plan: Plan, place: Place, *, on: On = "local") -> Mapping[str, str]:
    """Trains and plays what is missing.

    Returns:
      What went wrong in runs that diverged, by job: the others go on without them.

    Raises:
      ScaledQError: anything else that goes wrong in a run; the study can be asked for again.
    """
    stores(plan, place)
    todo = [key for key in plan.jobs if state(key, plan, place) != "done"]
    failures: dict[str, str] = {}
    for done, (key, fault) in enumerate(_work(todo, plan, place, on), 1):
        if fault:
            failures[key] = fault
        print(f"study {plan.study.name}: {done} of {len(todo)}  {key}  {fault}".rstrip(),
              file=sys.stderr, flush=True)  # fmt: skip
    return failures


def perform(key: str, plan: Plan, place: Place) -> str:
    """Trains and plays one job as far as needed; returns what went wrong if it diverged."""
    job = plan.jobs[key]
    lender = found(job.source, place) if job.source else None
    if job.source and lender and lender.finished and not lender.has_weights:
        perform(job.source.key, plan, place)  # only its scores were kept
    cfg = resolved(job, place)
    if cfg is None:
        return "its source did not finish"
    try:
        run = train(cfg, place.runs, resume=True)
    except DivergedError as error:
        return str(error)
    for selection in plan.selections(key):
        tasks = unplayed(run, selection, plan)
        if tasks:
            evaluate(
                run,
                tasks=tasks,
                episodes=plan.scale.episodes,
                protocol=plan.scale.run.protocol,
                selection=selection,
            )
    return ""


def _work(todo: Sequence[str], plan: Plan, place: Place, on: On) -> Iterator[tuple[str, str]]:
    """Each job as it is done, sources first."""
    if on == "ray":
        lenders = [key for key in todo if plan.jobs[key].source is None]
        yield from _on_ray(lenders, plan, place)
        yield from _on_ray([key for key in todo if key not in lenders], plan, place)
        return
    for key in todo:
        yield key, perform(key, plan, place)


def _on_ray(todo: Sequence[str], plan: Plan, place: Place) -> Iterator[tuple[str, str]]:
    """Each job as a piece for a Ray cluster, whose machines all reach the stores and the runs."""
    away = replace(place, runs=place.runs.resolve())
    pieces = {key: (key, plan, away) for key in todo}
    for key, fault in spread(_told, pieces, gpu=1.0) if pieces else ():
        yield key, fault.decode()


def _told(key: str, plan: Plan, place: Place) -> bytes:
    return perform(key, plan, place).encode()
