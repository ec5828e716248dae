"""What is in a store? One page that a person can look at: its tasks, their frames and returns.

`page(StoreData)` is a pure function, and the page is of the report's make (see `markup`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from scaledq.report import figures, markup, pictures
from scaledq.report.tables import Column, Table


@dataclass(frozen=True, slots=True)
class Sample:
    """Frames to look at."""

    caption: str
    frames: np.ndarray
    """One frame [H W], [H W C] or [C H W], or k vectors [k D]."""
    vectors: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskData:
    """All that the page says of a task."""

    name: str
    logs: int
    rows: int
    transitions: int
    episodes: int
    return_mean: float | None
    return_best: float | None
    return_tenths: Sequence[float | None]
    """Mean return of the episodes that ended in each part of a log; None without any."""
    return_points: Sequence[tuple[float, float]]
    """Single episodes: where in its log each ended, from 0 to 1, and its raw return."""
    rewards: Mapping[str, int]
    """Transitions by class of raw reward."""
    actions: Sequence[int]
    """Transitions by action."""
    bytes_a_frame: float | None
    facts: Mapping[str, str]
    """Frames, behaviour, protocol, where the data come from."""
    samples: Sequence[Sample]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreData:
    """A store as it was found."""

    path: str
    tasks: Sequence[TaskData]
    unfinished: Sequence[str] = ()


def page(data: StoreData) -> str:
    """The whole page."""
    rows = sum(task.rows for task in data.tasks)
    said = f"{len(data.tasks)} tasks, {rows:,} rows"
    parts = {"Contents": markup.paragraph(f"{data.path}: {said}.") + _unfinished(data)}
    if data.tasks:
        parts["Contents"] += markup.table(_contents(data.tasks))
    parts |= {task.name: _task(task, f"task{i}") for i, task in enumerate(data.tasks)}
    foot = "Made by scaledq inspect. Click a column's heading to sort by it."
    return markup.document(f"The store {data.path}", parts, foot=foot)


def _unfinished(data: StoreData) -> str:
    if not data.unfinished:
        return ""
    names = ", ".join(data.unfinished)
    return markup.paragraph(f"Unfinished, and so without data: {names}.", "warning")


def _contents(tasks: Sequence[TaskData]) -> Table:
    names = ("logs", "transitions", "episodes", "mean return", "best return", "bytes a frame")
    return Table(
        name="contents",
        caption="All logs of a task together; returns are sums of raw rewards over an episode",
        columns=(Column("task"), *(Column(name) for name in names)),
        rows=tuple(
            (
                t.name,
                *(t.logs, t.transitions, t.episodes),
                *(t.return_mean, t.return_best, t.bytes_a_frame),
            )
            for t in tasks
        ),
    )


def _task(task: TaskData, name: str) -> str:
    drawn = [
        markup.figure(
            figures.returns_over_time(task.return_points, task.return_tenths),
            f"{name}-returns",
            "Each dot is an episode; the line is the mean over each tenth of the logs.",
        )
        if task.return_points
        else markup.paragraph("No episode ends in these logs.", "note"),
        markup.figure(
            figures.shares({str(a): n for a, n in enumerate(task.actions)}, x="action"),
            f"{name}-actions",
            "How often each action was taken.",
        ),
        markup.figure(
            figures.shares(task.rewards, x="raw reward"),
            f"{name}-rewards",
            "How often a transition was rewarded.",
        ),
    ]
    seen = "".join(_sample(sample) for sample in task.samples)
    return (
        f'{markup.facts(task.facts)}<div class="frames">{seen}</div>'
        f'<div class="curves">{"".join(drawn)}</div>'
    )


def _sample(sample: Sample) -> str:
    content = pictures.heat(sample.frames) if sample.vectors else pictures.png(sample.frames)
    kind = ' class="wide"' if sample.vectors else ""
    image = f'<img alt="{escape(sample.caption)}" src="{markup.data_uri(content, "image/png")}">'
    return f"<figure{kind}>{image}<figcaption>{escape(sample.caption)}</figcaption></figure>"
