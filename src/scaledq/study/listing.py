"""What a study would do, before it does it: every run with its cost and how far it is."""

from dataclasses import dataclass

from scaledq.core import atari
from scaledq.core.errors import DataError, TaskError
from scaledq.core.task import Task
from scaledq.data.store import Store
from scaledq.report.comparisons import short
from scaledq.run.config import RunConfig
from scaledq.study.cost import cost, speed, transitions
from scaledq.study.execute import Place, State, folder, found, lacking, opened, state
from scaledq.study.plan import Plan

HEADS = ("run", "arms", "parameters", "steps", "transitions", "hours", "state")


@dataclass(frozen=True, slots=True)
class Line:
    """One run of a plan."""

    cells: tuple[str, ...]
    left: float
    """Hours of training that are still to come."""
    state: State


def listing(plan: Plan, place: Place) -> str:
    """A table of the plan's runs, the hours that are left on this machine, and what cannot run.

    Hours are estimates for training (see cost.py); those of finished runs are what they took.

    Raises:
      DataError: a store cannot be opened; the message says which command makes the logs.
    """
    stores = opened(plan, place)
    known = [run for job in plan.jobs.values() if (run := found(job, place)) and run.finished]
    rate = speed(known)
    lines = [_line(key, plan, place, stores, rate) for key in plan.jobs]
    table = [HEADS, *(line.cells for line in lines)]
    widths = [max(len(row[i]) for row in table) for i in range(len(HEADS))]
    out = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
           for row in table]  # fmt: skip
    states = [line.state for line in lines]
    counts = f"{len(lines)} runs, {states.count('done')} done"
    if "to play" in states:
        counts += f", {states.count('to play')} to play"
    left = sum(line.left for line in lines)
    out.append(f"{counts}; about {left:.2g} hours of training left here")
    fault = lacking(plan, place, stores)
    out += [fault] if fault else []
    out += [f"cannot run {arm}: there is no recipe {name!r} yet"
            for arm, name in plan.lacking.items()]  # fmt: skip
    return "\n".join(out)


def _line(key: str, plan: Plan, place: Place, stores: list[Store], rate: float) -> Line:
    job = plan.jobs[key]
    run, how = found(job, place), state(key, plan, place)
    tasks = run.tasks if run else tuple(_task(name, stores) for name in job.config.known_tasks)
    price = cost(job.config, tasks)
    taken = run.facts.get("seconds") if run else None
    hours = taken / 3600 if taken is not None else price.hours(rate)
    where = folder(job, place)
    cells = (
        str(where) if where else f"after {job.source.config.folder if job.source else '?'}",
        ", ".join(plan.arms(key)) or "lends its weights",
        short(price.parameters),
        f"{job.config.steps:,}",
        _seen(job.config, stores),
        f"{hours:.2g}" if taken is not None else f"~{hours:.2g}",
        how,
    )
    return Line(cells, 0.0 if how in ("done", "to play") else hours, how)


def _seen(cfg: RunConfig, stores: list[Store]) -> str:
    """About how many transitions the run learns from; online, how many it plays."""
    if cfg.online:
        return short(cfg.played)
    counts = [transitions(cfg.view, stores, task) for task in cfg.tasks]
    known = [count for count in counts if count is not None]
    return short(sum(known)) if len(known) == len(counts) and stores else "?"


def _task(name: str, stores: list[Store]) -> Task:
    """As the stores have it; without them, as an Atari game."""
    for store in stores:
        if name in store:
            return store[name][0].task
    try:
        return atari.task(name)
    except TaskError as error:
        raise DataError(f"{error}; give the --store that has it") from error
