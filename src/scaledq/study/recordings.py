"""What recorded learning runs hold, and how their agents came to play better.

A recording's folder holds recording.json, which says how it was made, and metrics.jsonl, its
learning curve: what `scaledq collect` leaves below STORE/.recording, and what `logs/` ships.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from scaledq.core.atari import games
from scaledq.core.config import from_json
from scaledq.core.errors import RunError
from scaledq.report import figures, tables
from scaledq.report.tables import Column, Table
from scaledq.run.collect import ABOUT, CollectConfig
from scaledq.run.recording import METRICS

PARTS = 10
"""Equal parts of a recording whose mean scores are told."""
CURVE = "mean return"


@dataclass(frozen=True, slots=True)
class Curve:
    """One task of one recording."""

    task: str
    about: CollectConfig
    rows: tuple[Mapping[str, Any], ...]
    """Its metrics, in order."""

    @property
    def points(self) -> list[tuple[int, float, int]]:
        """(step, mean raw return, episodes) of each row in which an episode of the task ended."""
        task = self.task
        return [
            (row["step"], row["score"][task], row["episodes"][task])
            for row in self.rows
            if row.get("score", {}).get(task) is not None
        ]

    @property
    def parts(self) -> list[float | None]:
        """The mean raw return of the episodes that ended in each tenth, by rows of metrics."""
        edges = [self.about.steps * i / PARTS for i in range(PARTS + 1)]
        return [
            _mean([point for point in self.points if low < point[0] <= high])
            for low, high in pairwise(edges)
        ]

    @property
    def minutes(self) -> float:
        """Wall time, of all tasks of the recording together."""
        return self.rows[-1]["seconds"] / 60


def _mean(points: Sequence[tuple[int, float, int]]) -> float | None:
    episodes = sum(count for _, _, count in points)
    return sum(score * count for _, score, count in points) / episodes if episodes else None


def is_recording(folder: Path) -> bool:
    """Whether a folder is one that `curves` reads."""
    return (folder / ABOUT).exists()


def curves(folder: Path) -> list[Curve]:
    """Of each task of a recording; raises RunError where the folder is none, or has no metrics."""
    try:
        about = from_json(CollectConfig, (folder / ABOUT).read_bytes())
        rows = tuple(json.loads(line) for line in (folder / METRICS).read_text().splitlines())
    except OSError as error:
        raise RunError(
            f"{folder} is not a recording's folder: {error.filename} is not there"
        ) from error
    except ValueError as error:
        raise RunError(f"{folder / METRICS}: not a line of JSON each ({error})") from error
    if not rows:
        raise RunError(f"{folder / METRICS} is empty: nothing was learnt yet")
    return [Curve(task, about, rows) for task in about.tasks]


def summary(found: Sequence[Curve]) -> Table:
    """One row a task: what it holds, what random play scores, and how it grew."""
    names = ("Game", "Behaviour", "Seed", "Steps", "Episodes", "Random", "First tenth",
             "Last tenth", "Best tenth", "Minutes")  # fmt: skip
    return Table(
        name="recordings",
        caption="Mean raw returns of recorded learning runs",
        columns=tuple(Column(name, digits=0 if name == "Minutes" else 1) for name in names),
        rows=tuple(_row(curve) for curve in found),
    )


def _row(curve: Curve) -> tuple[str | int | float | None, ...]:
    about, parts, game = curve.about, curve.parts, games().get(curve.task)
    return (
        curve.task,
        about.behaviour.name if about.behaviour.kind == "replay" else about.behaviour.kind,
        about.seed,
        about.steps,
        sum(count for _, _, count in curve.points),
        game.random if game else None,
        parts[0],
        parts[-1],
        max((part for part in parts if part is not None), default=None),
        curve.minutes,
    )


def tenths(found: Sequence[Curve]) -> Table:
    """One row a task: the mean raw return in each tenth of its recording."""
    return Table(
        name="recordings-tenths",
        caption="Mean raw return of the episodes that ended in each tenth of the recording",
        columns=(Column("Game"), *(Column(str(i + 1)) for i in range(PARTS))),
        rows=tuple((curve.task, *curve.parts) for curve in found),
    )


def drawing(found: Sequence[Curve]) -> Figure:
    """A panel for each task: mean raw return over steps."""
    several = {c.task for c in found if sum(c.task == other.task for other in found) > 1}
    names = [f"{c.task}, seed {c.about.seed}" if c.task in several else c.task for c in found]
    rows = [
        {"step": step, name: score}
        for name, curve in zip(names, found, strict=True)
        for step, score, _ in curve.points
    ]
    return figures.learning_curves(
        {CURVE: rows}, names, colours=figures.palette([CURVE]), columns=3, legend=False
    )


def markdown(found: Sequence[Curve], picture: str) -> str:
    """The section of docs/results.md about recordings; `picture` is where its figure lies."""
    reached = [f"{curve.task} {_verdict(curve)}" for curve in found]
    return "\n".join([
        "## Recorded learning runs\n",
        "Agents that learnt from scratch while everything they did was recorded. Raw returns under "
        "the recording's own exploration, one run each; wall time is of machines that did other "
        "work too.\n",
        f"![Mean raw return over steps of each recording]({picture})\n",
        tables.markdown(summary(found)),
        f"{tenths(found).caption}.\n",
        tables.markdown(tenths(found)),
        f"Best tenth against random play: {'; '.join(reached)}.\n",
    ])  # fmt: skip


def _verdict(curve: Curve) -> str:
    """How many times random play's score the best tenth has, or how much more if that is not
    positive."""
    best = max((part for part in curve.parts if part is not None), default=None)
    game = games().get(curve.task)
    if best is None or game is None:
        return "not known"
    if game.random <= 0:
        return f"{best - game.random:+.1f} points"
    return f"{best / game.random:.1f} times"
