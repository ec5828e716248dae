"""Is a store whole, and what is in it?"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorstore as ts
from rich.console import Group
from rich.table import Table

from scaledq.core.config import config
from scaledq.core.errors import DataError
from scaledq.data import zarr
from scaledq.data.rows import CLOSING
from scaledq.data.store import ARRAYS, Log, Store

TENTHS = 10
POINTS = 400
"""Episodes of a task whose returns are told one by one, at most."""
REWARDS = ("below -1", "-1 to 0", "0", "0 to 1", "above 1")
"""Classes of raw rewards: what clipping would do to them."""
BARS = " ▁▂▃▄▅▆▇█"


@config
class Block:
    """One file of a store, read and compared with its checksum."""

    log: str
    array: str
    file: str
    """Below the log's folder."""
    start: int
    stop: int
    """Rows start..stop-1."""
    fault: str | None
    """What is wrong with it, in a line; None if it is whole."""

    def __str__(self) -> str:
        rows = f"rows {self.start:,} to {self.stop - 1:,}"
        return f"{self.log}/{self.file} ({self.array}, {rows}): {self.fault or 'whole'}"


def verify(target: Store | Log) -> Iterator[Block]:
    """Only the damaged blocks of `check`."""
    return (block for block in check(target) if block.fault)


def check(target: Store | Log) -> Iterator[Block]:
    """Reads every file of every array and compares checksums; yields as it goes."""
    for log in _logs(target):
        for array in ARRAYS:
            yield from _check_array(log, array)


def blocks(target: Store | Log) -> int:
    """How many blocks `check` will yield for an undamaged store."""
    return sum(len(log.manifest.checksums[name]) for log in _logs(target) for name in ARRAYS)


def _logs(target: Store | Log) -> list[Log]:
    if isinstance(target, Log):
        return [target]
    return [log for task in target.tasks for log in target[task]]


def _check_array(log: Log, name: str) -> Iterator[Block]:
    try:
        array = log.array(name)
    except DataError as error:
        fault = str(error)
        yield _block(log, name, f"{name}/zarr.json", (0, len(log)), fault)
        return
    checksums = log.manifest.checksums[name]
    rows = log.manifest.rows_in_a_file(name)
    spans = [(b * rows, min((b + 1) * rows, len(log))) for b in range(len(checksums))]
    ahead = array[slice(*spans[0])].read()
    for block, span in enumerate(spans):
        reading, after = ahead, spans[block + 1 : block + 2]
        if after:
            ahead = array[slice(*after[0])].read()
        file = f"{name}/{zarr.block_file(array, block)}"
        yield _block(log, name, file, span, _fault(log, name, reading, checksums[block]))


def _fault(log: Log, name: str, reading: "ts.Future[np.ndarray]", checksum: int) -> str | None:
    try:
        values = reading.result()
    except zarr.FAILURES as error:
        return zarr.reason(error)
    if zarr.checksum(values) != checksum:
        return "readable, but not what was written (its checksum differs from the manifest's)"
    return None


def _block(log: Log, array: str, file: str, span: tuple[int, int], fault: str | None) -> Block:
    return Block(log=log.path, array=array, file=file, start=span[0], stop=span[1], fault=fault)


@config
class Summary:
    """What all logs of one task hold together."""

    task: str
    logs: int
    behaviours: tuple[str, ...]
    protocols: tuple[str, ...]
    sources: tuple[dict[str, str], ...]
    rows: int
    transitions: int
    episodes: int
    return_mean: float | None
    return_best: float | None
    return_tenths: tuple[float | None, ...]
    """Mean return of the episodes that ended in each tenth of a log's rows; None without any."""
    return_points: tuple[tuple[float, float], ...]
    """Where in its log an episode ended, from 0 to 1, and its raw return: of some of them, evenly
    spaced."""
    rewards: dict[str, int]
    """Transitions by class of raw reward."""
    actions: tuple[int, ...]
    """Transitions by action."""
    bytes_a_frame: float | None
    """Everything on disk, divided by rows; None for a store that is not on a local disk."""


def summary(store: Store) -> tuple[Summary, ...]:
    """One for each task, from its manifests and columns; no frame is read.

    Raises:
      DataError: a damaged column, naming the log.
    """
    return tuple(_summary(name, store[name]) for name in store.tasks)


def render(summaries: Sequence[Summary]) -> Group:
    """Three tables for rich's console: what there is, returns over time, what was done."""
    return Group(_contents(summaries), _returns(summaries), _deeds(summaries))


def _summary(task: str, logs: Sequence[Log]) -> Summary:
    counts = [log.manifest.counts for log in logs]
    episodes = sum(c.episodes for c in counts)
    best = [c.return_best for c in counts if c.return_best is not None]
    rewards, actions = np.zeros(len(REWARDS), int), np.zeros(logs[0].task.actions, int)
    sums, ends = np.zeros(TENTHS), np.zeros(TENTHS, int)
    points: list[tuple[float, float]] = []
    for log in logs:
        chosen = log.read("action")
        acted = chosen != CLOSING
        reward = log.read("reward")
        actions += np.bincount(chosen[acted], minlength=len(actions))
        rewards += np.bincount(_reward_class(reward[acted]), minlength=len(REWARDS))
        rows, returns = _episodes(log, reward)
        tenth = rows * TENTHS // len(log)
        sums += np.bincount(tenth, weights=returns, minlength=TENTHS)
        ends += np.bincount(tenth, minlength=TENTHS)
        some = slice(None, None, max(1, -(-len(rows) * len(logs) // POINTS)))
        points += zip((rows[some] / len(log)).tolist(), returns[some].tolist(), strict=True)
    sizes = [_bytes(log) for log in logs]
    rows = sum(c.rows for c in counts)
    return Summary(
        task=task,
        logs=len(logs),
        behaviours=tuple(dict.fromkeys(log.manifest.behaviour for log in logs)),
        protocols=tuple(dict.fromkeys(_protocol(log) for log in logs)),
        sources=tuple(log.manifest.source for log in logs),
        rows=rows,
        transitions=sum(c.transitions for c in counts),
        episodes=episodes,
        return_mean=sum(c.return_sum for c in counts) / episodes if episodes else None,
        return_best=max(best, default=None),
        return_tenths=tuple(float(s / n) if n else None for s, n in zip(sums, ends, strict=True)),
        return_points=tuple(points),
        rewards=dict(zip(REWARDS, rewards.tolist(), strict=True)),
        actions=tuple(actions.tolist()),
        bytes_a_frame=None if None in sizes else sum(s or 0 for s in sizes) / rows,
    )


def _reward_class(reward: np.ndarray) -> np.ndarray:
    """The place in REWARDS of each reward."""
    return 2 + np.sign(reward).astype(int) * (1 + (np.abs(reward) > 1))


def _episodes(log: Log, reward: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The row in which each episode ended, and its raw return."""
    ends = np.flatnonzero(log.read("terminated") | log.read("truncated"))
    return ends, np.diff(np.cumsum(reward, dtype=np.float64)[ends], prepend=0.0)


def _protocol(log: Log) -> str:
    return log.manifest.protocol.name if log.manifest.protocol else "not known"


def _bytes(log: Log) -> int | None:
    if "://" in log.path:
        return None
    return sum(path.stat().st_size for path in Path(log.path).rglob("*") if path.is_file())


def _contents(summaries: Sequence[Summary]) -> Table:
    names = ("logs", "transitions", "episodes", "return: mean", "best", "B a frame")
    table = _table("Contents", "task", *names, "behaviour", "protocol")
    for s in summaries:
        numbers = (f"{s.logs:,}", f"{s.transitions:,}", f"{s.episodes:,}")
        measures = (_number(s.return_mean), _number(s.return_best), _number(s.bytes_a_frame))
        about = (", ".join(s.behaviours), ", ".join(s.protocols))
        table.add_row(s.task, *numbers, *measures, *about)
    return table


def _returns(summaries: Sequence[Summary]) -> Table:
    tenths = [f"{number + 1}/{TENTHS}" for number in range(TENTHS)]
    table = _table("Mean return of the episodes that ended in each tenth", "task", *tenths)
    for s in summaries:
        table.add_row(s.task, *(_number(value) for value in s.return_tenths))
    return table


def _deeds(summaries: Sequence[Summary]) -> Table:
    table = _table("Share of transitions by raw reward and by action", "task", *REWARDS, "actions")
    for s in summaries:
        shares = (f"{100 * count / max(s.transitions, 1):.3g} %" for count in s.rewards.values())
        most = max(s.actions) or 1
        bars = "".join(BARS[-(-count * (len(BARS) - 1) // most)] for count in s.actions)
        table.add_row(s.task, *shares, f"0 |{bars}| {len(s.actions) - 1}")
    return table


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for name in others:
        words = name in ("behaviour", "protocol", "actions")
        table.add_column(name, justify="left" if words else "right")
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"
