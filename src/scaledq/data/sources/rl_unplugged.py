"""RL Unplugged's Atari episodes: <SOURCE>/<Game>/run_<r>-<shard>-of-<shards>, one log a run.

Each file: gzip over TFRecords, one tf.train.Example an episode, frames as PNG. Unlike DQN-Replay's
own files they keep raw rewards and the observation that closes an episode: row t holds o_t, a_t
and the reward that followed, and `discounts[t]` belongs to arriving at o_t, so `discounts[-1] == 0`
says that the last o is terminal, and any other value that the episode was cut. Either way its last
action and reward are not used: at a terminal o they mean nothing, and after a cut nobody knows what
they led to. (paper_facts, section 8; tensorflow_datasets/rl_unplugged.)
"""

import gzip
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from scaledq.core import atari
from scaledq.core.config import config
from scaledq.core.errors import ConfigError, DataError
from scaledq.core.protocol import DQN_REPLAY, Protocol
from scaledq.core.task import Task
from scaledq.data.manifest import Manifest
from scaledq.data.sources.folder import Folder, reading
from scaledq.data.sources.piece import Rows, write_rows
from scaledq.data.sources.tfrecord import Example, records

NAME = re.compile(r"run_(\d{1,4})-(\d{5})-of-(\d{5})")
PORTION = 1024
"""Frames that are decoded at a time."""


@config
class RLUnplugged:
    """Which runs to read. The copy must be the ordered one, `atari_episodes_ordered`."""

    kind: Literal["rl-unplugged"] = "rl-unplugged"
    source: str
    tasks: tuple[str, ...] = ()
    """Games; all that are there by default."""
    runs: tuple[int, ...] = (1,)
    shards: int | None = None
    """Only the first so many of each run's files: 10 of 50 are the first 20 %."""
    gaps: bool = False
    """Go on where files are missing."""
    ordered: bool = True
    """Refuse episodes that go back in time; without, "the first 20 %" means nothing."""

    def __post_init__(self) -> None:
        if self.shards is not None and self.shards < 1:
            raise ConfigError("rl-unplugged: need shards >= 1")

    def pieces(self) -> tuple["Run", ...]:
        """One log for each game and run.

        Raises:
          TaskError: no such game.
          DataError: a game, a run or (without `gaps`) a file that is not there, naming it.
        """
        top = Folder(self.source)
        games = self.tasks or tuple(name for name in top.names() if name in atari.games())
        if not games:
            raise DataError(f"{top} holds no game's folder; it should look like {top}/Breakout")
        return tuple(self._run(top, atari.task(g).name, r) for g in games for r in self.runs)

    def _run(self, top: Folder, game: str, run: int) -> "Run":
        found = [m for m in map(NAME.fullmatch, (top / game).names()) if m and int(m[1]) == run]
        counts = sorted({int(m[3]) for m in found})
        if len(counts) != 1:
            fault = f"files of {counts} shards" if counts else f"no run_{run}-*-of-*"
            raise DataError(f"{top / game} holds {fault}; each run has files of one set")
        shards = counts.pop()
        expected = range(min(shards, self.shards or shards))
        names = [f"run_{run}-{shard:05d}-of-{shards:05d}" for shard in expected]
        there = {m.group() for m in found}
        missing = [name for name in names if name not in there]
        if len(missing) == len(names) or (missing and not self.gaps):
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise DataError(f"{top / game}: {missing[0]}{more} is missing; fetch it, or allow gaps")
        files = tuple(name for name in names if name in there)
        return Run(config=self, game=game, run=run, files=files, missing=tuple(missing))


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run of one game: the piece of work that makes one log."""

    config: RLUnplugged
    game: str
    run: int
    files: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def task(self) -> str:
        return self.game

    @property
    def name(self) -> str:
        return f"run{self.run}"

    @property
    def behaviour(self) -> str:
        return "dqn"

    @property
    def rules(self) -> Protocol:
        return DQN_REPLAY

    @property
    def source(self) -> dict[str, str]:
        shards = [NAME.fullmatch(name) for name in self.files]
        return {
            "kind": self.config.kind,
            "location": str(Folder(self.config.source) / self.game),
            "shards": ",".join(str(int(m[2])) for m in shards if m),
            "ordered": str(self.config.ordered),
        }

    def write(self, store: str, told: Callable[[int], None]) -> Manifest:
        """See Piece."""
        task = atari.task(self.game)
        order = Order(strict=self.config.ordered)
        folder = Folder(self.config.source) / self.game
        rows = (part for name in self.files for part in _file(folder, name, task, order))
        return write_rows(
            self,
            store,
            task,
            rows,
            told=told,
            extra=lambda: {
                "missing": list(self.missing),
                "episodes_out_of_order": order.faults,
                "rewards": "raw",
            },
        )


class Order:
    """Watches that episodes come in time order."""

    def __init__(self, *, strict: bool):
        self.faults = 0
        self._strict, self._last = strict, (-1, -1)

    def see(self, checkpoint: int, episode: int, where: str) -> None:
        """Takes the next episode; raises DataError if its checkpoint is an earlier one."""
        if self._strict and checkpoint < self._last[0]:
            raise DataError(
                f"{where}: an episode of checkpoint {checkpoint} after one of {self._last[0]}; "
                "this copy is not in time order, fetch atari_episodes_ordered"
            )
        self.faults += (checkpoint, episode) < self._last
        self._last = (checkpoint, episode)


def _file(folder: Folder, name: str, task: Task, order: Order) -> Iterator[Rows]:
    where = str(folder / name)
    with folder.open(name) as packed, gzip.GzipFile(fileobj=packed) as file:
        for number, data in enumerate(records(file, where)):
            example = Example(data, f"{where}: record {number}")
            checkpoint, episode = example.integer("checkpoint_idx"), example.integer("episode_idx")
            order.see(checkpoint, episode, example.where)
            yield from episode_rows(example, task)


def episode_rows(example: Example, task: Task) -> Iterator[Rows]:
    """The rows of one episode of T observations: T - 1 transitions and the closing row.

    Raises:
      DataError: lists whose lengths disagree, or impossible values, naming the row.
    """
    pictures = example.strings("observations")
    action = example.integers("actions")
    reward, discount = example.floats("unclipped_rewards"), example.floats("discounts")
    steps = len(pictures) - 1
    lengths = {len(column) for column in (pictures, action, reward, discount)}
    if len(lengths) != 1 or steps < 0:
        raise DataError(
            f"{example.where}: {len(pictures)} observations, {len(action)} actions, "
            f"{len(reward)} rewards and {len(discount)} discounts; they should agree"
        )
    if steps == 0:
        return
    action, reward = np.append(action[:-1], -1), np.append(reward[:-1], np.float32(0))
    terminated = np.append(discount[1:] == 0, [False])
    truncated = np.zeros(steps + 1, bool)
    truncated[steps - 1] = not terminated[steps - 1]
    faults = {
        f"an action outside [0, {task.actions})": (action[:-1] < 0) | (action[:-1] >= task.actions),
        "a reward that is not finite": ~np.isfinite(reward[:-1]),
        "a discount that is not in [0, 1]": ~((discount[1:] >= 0) & (discount[1:] <= 1)),
        "an end amid the episode": terminated[: steps - 1],
    }
    for fault, bad in faults.items():
        if bad.any():
            raise DataError(f"{example.where}: row {int(bad.argmax())} has {fault}")
    for start in range(0, steps + 1, PORTION):
        part = slice(start, start + PORTION)
        frames = _decode(pictures[part], task, example.where, first=start)
        yield Rows(frames, action[part], reward[part], terminated[part], truncated[part])


def _decode(pictures: list[bytes], task: Task, where: str, *, first: int) -> np.ndarray:
    frames = np.empty((len(pictures), *task.frame_shape), np.uint8)
    for row, png in enumerate(pictures):
        with (
            reading(f"{where}: the picture of row {first + row}"),
            Image.open(io.BytesIO(png), formats=("PNG",)) as picture,
        ):
            if picture.size != task.frame_shape[::-1] or picture.mode != "L":
                raise ValueError(f"it is {picture.mode} {picture.size}, not grey {84, 84}")
            frames[row] = np.asarray(picture)
    return frames
