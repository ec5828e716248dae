"""From score rows to arrays: who played what, under which protocol, and what that is worth.

A row is {run, method, task, seed, episode, score, length, protocol}. Shapes: R runs, E episodes,
N tasks.

What counts as a run: for a method that was trained, one run folder, whose score on a task is the
mean over its evaluation episodes. With two runs or more, runs are resampled; with one, its
episodes (see stats.py on what that leaves out). A recorded method, such as the behaviour that made
the logs, is one run, whatever the number of its logs.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float

from scaledq.core import atari
from scaledq.core.errors import DataError, TaskError, suggest
from scaledq.core.protocol import PRESETS
from scaledq.report import stats
from scaledq.report.stats import Estimate

FIELDS = ("run", "method", "task", "seed", "episode", "score", "length", "protocol")
BEHAVIOUR, RANDOM = "behaviour", "random"
"""Methods with a meaning: what the logs' own episodes scored, and uniformly random play."""

Normal = Literal["human", "dqn", "behaviour", "raw"]
"""What 1 stands for in a normalised score; 0 is random play. `raw` leaves scores as they are."""

STATISTICS: dict[str, stats.Statistic] = {
    "IQM": stats.iqm,
    "median": stats.median,
    "mean": stats.mean,
    "optimality gap": stats.optimality_gap,
}


@dataclass(frozen=True, slots=True)
class Range:
    """The raw scores that normalise to 0 and to 1."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Scores:
    """Raw scores of some methods on some tasks, grouped by `group`."""

    methods: tuple[str, ...]
    tasks: tuple[str, ...]
    protocol: str
    """Of every method that was evaluated."""
    recorded: dict[str, tuple[str, ...]]
    """Methods whose scores come from logs, and the protocols of those."""
    episodes: dict[tuple[str, str], dict[str, Float[np.ndarray, "E"]]]
    """(method, task) -> run -> the raw score of each episode."""

    def lacking(self, method: str) -> tuple[str, ...]:
        """The tasks that some run of `method` has no score of."""
        runs = self.runs(method)
        return tuple(t for t in self.tasks if set(self.episodes.get((method, t), {})) != set(runs))

    def runs(self, method: str) -> tuple[str, ...]:
        """The runs of a method, in order of appearance."""
        found = (runs for (name, _), runs in self.episodes.items() if name == method)
        return tuple(dict.fromkeys(run for runs in found for run in runs))

    def column(self, method: str, task: str) -> Float[np.ndarray, "R"]:
        """What is resampled: each run's mean score, or the episodes of the only run.

        Raises:
          DataError: the method has no scores of the task.
        """
        runs = self.episodes.get((method, task), {})
        if not runs:
            raise DataError(f"no scores of {method} on {task}; evaluate it there, or leave it out")
        if len(self.runs(method)) == 1:
            return next(iter(runs.values()))
        return np.array([scores.mean() for scores in runs.values()])

    def resampled(self, method: str) -> str:
        """In words, what the method's intervals were drawn from: `3 runs`, `16 episodes`."""
        runs = len(self.runs(method))
        if runs > 1:
            return f"{runs} runs"
        found = [tuple(e.values()) for (m, _), e in self.episodes.items() if m == method]
        counts = [len(episodes) for (episodes,) in found]
        low, high = min(counts), max(counts)
        what = "logged episodes" if method in self.recorded else "episodes of one run"
        return f"{low} {what}" if low == high else f"{low} to {high} {what}"

    def estimate(
        self, method: str, task: str, *, rng: np.random.Generator, resamples: int = 2000
    ) -> Estimate | None:
        """Mean raw score with its 95 % interval, or None where there are no scores."""
        if (method, task) not in self.episodes:
            return None
        column = self.column(method, task)
        return Estimate(
            float(column.mean()), *stats.mean_interval(column, rng=rng, resamples=resamples)
        )


def group(
    rows: Iterable[Mapping[str, Any]], *, recorded: Collection[str] = (BEHAVIOUR, RANDOM)
) -> Scores:
    """Groups score rows by method and run, in order of appearance, and by task, by name: which
    episode ends first, or which arm is there, must change neither a table nor a bootstrap's draws.

    Args:
      rows: of one protocol, but for methods in `recorded`: logs have a protocol of their own, which
        Scores.recorded keeps, so that a table can say so.
      recorded: methods whose runs are logs.

    Raises:
      DataError: no rows; a row that lacks a field, is there twice, or whose score is not finite;
        methods evaluated under unequal protocols (both are named).
    """
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    protocols: dict[str, dict[str, None]] = {}
    seen: set[tuple[object, ...]] = set()
    for row in rows:
        run, method, task, score, protocol = _fields(row)
        episode = (run, method, task, row["seed"], row["episode"], protocol)
        if episode in seen:
            raise DataError(
                f"{run} ({method}) has episode {row['episode']} of {task} twice; evaluate it again"
            )
        seen.add(episode)
        run = method if method in recorded else run
        found.setdefault((method, task), {}).setdefault(run, []).append(score)
        protocols.setdefault(method, {})[protocol] = None
    if not found:
        raise DataError("no score rows; `scaledq evaluate RUN` makes them")
    return Scores(
        methods=tuple(protocols),
        tasks=tuple(sorted({task for _, task in found})),
        protocol=_one_protocol({m: p for m, p in protocols.items() if m not in recorded}),
        recorded={m: tuple(p) for m, p in protocols.items() if m in recorded},
        episodes={
            key: {run: np.array(scores) for run, scores in runs.items()}
            for key, runs in found.items()
        },
    )


def reference(task: str, normal: Normal, scores: Scores) -> Range | None:
    """The raw scores that are 0 and 1 of `task`, or None where there are none.

    `human` and `dqn` (the best of DQN's iterations, as in Lee et al., 2022) are published numbers
    of Atari games in their default mode and difficulty. `behaviour` is for any task: its 1 is the
    mean score of the method `behaviour`, its 0 that of the method `random`; both must be in
    `scores`. A behaviour that does not beat random play normalises nothing.
    """
    if normal == "raw":
        return Range(0.0, 1.0)
    if normal == "behaviour":
        if (BEHAVIOUR, task) not in scores.episodes or (RANDOM, task) not in scores.episodes:
            return None
        low, high = (float(scores.column(m, task).mean()) for m in (RANDOM, BEHAVIOUR))
        return Range(low, high) if high > low else None
    game = game_of(task)
    high = None if game is None else game.human if normal == "human" else game.dqn_best
    if game is None or high is None or high <= game.random:
        return None
    return Range(game.random, high)


def game_of(task: str) -> atari.Game | None:
    """The Atari game that published scores of this task are about; None for variants and others."""
    try:
        game, mode, difficulty = atari.parse(task)
    except TaskError:
        return None
    return game if (mode, difficulty) == (0, 0) else None


def is_atari(task: str) -> bool:
    """Whether the task is an Atari game or a variant of one: what the paper's protocol is about."""
    return task.partition(":")[0] in atari.games()


def rescaled(raw: Estimate, span: Range) -> Estimate:
    """A raw score, and its interval, as a normalised one."""
    return Estimate(*((x - span.low) / (span.high - span.low) for x in astuple(raw)))


def agreed(tasks: Sequence[str]) -> tuple[str, ...]:
    """Those tasks whose human score the field agrees on: not Carnival and Pooyan of the 40."""
    games = {task: game_of(task) for task in tasks}
    return tuple(task for task, game in games.items() if game and game.agreed_human)


def normalised(
    scores: Scores, method: str, normal: Normal, tasks: Sequence[str] = ()
) -> list[Float[np.ndarray, "R"]]:
    """One array a task, as `Scores.column`, with random play at 0 and `normal` at 1.

    Raises:
      DataError: a task without such a reference, or without scores of the method.
    """
    out = []
    for task in tasks or scores.tasks:
        span = reference(task, normal, scores)
        if span is None:
            raise DataError(f"{task} has no {normal}-normalised score: {_why(normal)}")
        out.append((scores.column(method, task) - span.low) / (span.high - span.low))
    return out


def aggregate(
    scores: Scores,
    method: str,
    normal: Normal,
    *,
    rng: np.random.Generator,
    tasks: Sequence[str] = (),
    statistics: Mapping[str, stats.Statistic] = STATISTICS,
    resamples: int = 2000,
) -> dict[str, Estimate]:
    """Each statistic of a method's normalised scores, with its 95 % interval.

    Args:
      tasks: instead of all; `agreed(scores.tasks)` for those with an agreed human score.

    Raises:
      DataError: the method lacks scores of some task (named), or a task lacks its reference.
    """
    chosen = tuple(tasks) or scores.tasks
    gaps = [task for task in scores.lacking(method) if task in chosen]
    if gaps:
        raise DataError(f"{method} was not scored on {', '.join(gaps)}; evaluate it there first")
    columns = normalised(scores, method, normal, chosen)
    one_run = len(scores.runs(method)) == 1
    table = np.array([[c.mean() for c in columns]]) if one_run else np.stack(columns, axis=1)
    out = {}
    for name, statistic in statistics.items():
        if one_run:
            bounds = stats.interval_of_means(columns, statistic, rng=rng, resamples=resamples)
        else:
            bounds = stats.interval(table, statistic, rng=rng, resamples=resamples)
        out[name] = Estimate(statistic(table), *bounds)
    return out


def drawn(
    scores: Scores,
    method: str,
    normal: Normal,
    *,
    statistic: stats.Statistic,
    rng: np.random.Generator,
    resamples: int = 2000,
) -> tuple[float, Float[np.ndarray, "resamples"]]:
    """A statistic of a method's normalised scores over all tasks, and the bootstrap's draws of it.

    Raises:
      DataError: as `aggregate`.
    """
    gaps = scores.lacking(method)
    if gaps:
        raise DataError(f"{method} was not scored on {', '.join(gaps)}; evaluate it there first")
    columns = normalised(scores, method, normal)
    if len(scores.runs(method)) == 1:
        table = np.array([[c.mean() for c in columns]])
        draws = stats.resampled_means(columns, statistic, rng=rng, resamples=resamples)
    else:
        table = np.stack(columns, axis=1)
        draws = stats.resampled(table, statistic, rng=rng, resamples=resamples)
    return statistic(table), draws


def _fields(row: Mapping[str, Any]) -> tuple[str, str, str, float, str]:
    lacks = [name for name in FIELDS if name not in row]
    if lacks:
        raise DataError(f"a score row lacks {', '.join(lacks)}: {dict(row)}; play it again")
    score = row["score"]
    if not isinstance(score, int | float) or not np.isfinite(score):
        raise DataError(f"a score is not a number, or not finite: {dict(row)}; play it again")
    return row["run"], row["method"], row["task"], float(score), row["protocol"]


def _one_protocol(protocols: Mapping[str, Collection[str]]) -> str:
    first: tuple[str, str] | None = None
    for method, names in protocols.items():
        for name in names:
            first = first or (name, method)
            if name != first[0]:
                known = first[0] in PRESETS
                how = f"scaledq evaluate RUN --protocol {first[0]}" if known else "as the first was"
                raise DataError(
                    f"unequal protocols in one table: {first[0]!r} ({first[1]}) and {name!r} "
                    f"({method}); score all under one: {how}"
                )
    return first[0] if first else ""


def _why(normal: Normal) -> str:
    if normal not in get_args(Normal):
        return f"unknown normalisation; {suggest(normal, get_args(Normal))}"
    if normal == "behaviour":
        return f"needs scores of {RANDOM!r} and of a {BEHAVIOUR!r} that beats it"
    return "only Atari games in their default mode have one; report raw scores"
