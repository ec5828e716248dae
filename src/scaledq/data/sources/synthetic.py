"""DQN-Replay's files without DQN-Replay: any episodes, laid down by a ring buffer like Dopamine's.

For tests and benchmarks. Beside the files it says which rows a reader should find, from what it
put where, not from reading anything back.
"""

import gzip
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from scaledq.data.sources.piece import Rows
from scaledq.data.sources.replay_files import part

PAD, STALE = -1, -2


@dataclass(frozen=True, slots=True)
class Episode:
    """T steps; the last one ends it, at the step cap if `late`."""

    frames: np.ndarray
    """uint8 [T H W]"""
    action: np.ndarray
    reward: np.ndarray
    late: bool = False

    def __len__(self) -> int:
        return len(self.action)


@dataclass(kw_only=True)
class Layout:
    """How the files are laid down.

    Args:
      capacity: rows of the ring; a million in the real files.
      padding: rows of zeros before each episode.
      final: whether the unfinished ring is dumped at the end.
      missing: numbers of files that are not written.
      damage: (file, row) -> (part, value): written there instead; the row no longer counts.
    """

    capacity: int = 100
    padding: int = 3
    final: bool = True
    missing: tuple[int, ...] = ()
    damage: Mapping[tuple[int, int], tuple[str, float | int]] = field(default_factory=dict)


def toy_episodes(
    rng: np.random.Generator, *, lengths: Iterable[int], actions: int, step_cap: int = 27_000
) -> Iterator[Episode]:
    """Episodes whose frames say where they belong; one frame in eight is black, as is the first."""
    for number, length in enumerate(lengths):
        frames = np.zeros((length, 84, 84), np.uint8)
        frames[:, 0, :4] = np.frombuffer(np.full(length, number, "<u4").tobytes(), np.uint8)[
            : 4 * length
        ].reshape(length, 4)
        frames[:, 1:5] = rng.integers(0, 256, (length, 4, 84))
        frames[rng.random(length) < 1 / 8] = 0
        frames[0] = 0
        action = rng.integers(0, actions, length).astype(np.int32)
        reward = rng.integers(-1, 2, length).astype(np.float32)
        action[rng.random(length) < 1 / 2] = 0
        reward[rng.random(length) < 1 / 2] = 0
        yield Episode(frames, action, reward, late=length == step_cap)


def write_dqn_replay(
    folder: Path, episodes: Iterable[Episode], layout: Layout | None = None
) -> Rows:
    """Writes the files of one run's replay_logs at `folder`; returns the rows a log should have.

    A row before one that is lost (at a file's end, or damaged) is truncated unless it is terminal.
    """
    folder.mkdir(parents=True)
    ring = _Ring(folder, layout or Layout())
    kept = []
    for episode in episodes:
        kept.append(episode)
        ring.add_episode(episode)
    if ring.layout.final:
        ring.dump(rows=ring.cursor, add_count=ring.cursor)
    return _Truth(kept, ring).rows()


@dataclass(slots=True)
class _Dump:
    """One file: the step in each of its own rows (or PAD, or STALE for damage)."""

    steps: list[int]
    near: bool
    """Just one row is lost between the file before and this one."""


class _Ring:
    """Dopamine's buffer."""

    def __init__(self, folder: Path, layout: Layout):
        self.folder, self.layout = folder, layout
        self.add_count = self.dumps = self.steps = 0
        self.last_dump: int | None = None
        self.found: list[_Dump] = []
        rows = layout.capacity
        self.ids = np.full(rows, STALE)
        # What memory that nobody has written to may hold.
        self.stores = {
            "observation": np.full((rows, 84, 84), 0xAB, np.uint8),
            "action": np.full(rows, -559_038_737, np.int32),
            "reward": np.full(rows, np.nan, np.float32),
            "terminal": np.full(rows, 0xAB, np.uint8),
        }

    @property
    def cursor(self) -> int:
        return self.add_count % self.layout.capacity

    def add_episode(self, episode: Episode) -> None:
        """Puts padding and steps into the ring, and dumps it when it is due."""
        last = len(episode) - 1
        for step in range(len(episode)):
            if step == 0:
                for _ in range(self.layout.padding):
                    self._put(PAD, (0, 0, 0, 0))
            row = (episode.frames[step], episode.action[step], episode.reward[step], step == last)
            self._put(self.steps, row)
            self.steps += 1
            if self.cursor == self.layout.capacity - 1:
                self.dump(rows=self.cursor, add_count=self.add_count)

    def _put(self, step: int, row: tuple[object, ...]) -> None:
        for store, value in zip(self.stores.values(), row, strict=True):
            store[self.cursor] = value
        self.ids[self.cursor] = step
        self.add_count += 1

    def dump(self, *, rows: int, add_count: int) -> None:
        """Writes the next file; only its first `rows` rows are its own."""
        number, self.dumps = self.dumps, self.dumps + 1
        near = self.last_dump is not None and add_count - self.last_dump == self.layout.capacity
        again = self.add_count == self.last_dump
        self.last_dump = None if number in self.layout.missing else add_count
        if number in self.layout.missing:
            return
        damage = {r: d for (n, r), d in self.layout.damage.items() if n == number}
        steps = [STALE if r in damage else int(i) for r, i in enumerate(self.ids[:rows])]
        self.found += [_Dump(steps, near)] if steps and not again else []
        for name, store in self.stores.items():
            values = store.copy()
            for row, (column, value) in damage.items():
                values[row] = value if column == name else values[row]
            _save(self.folder / part(name, number), values)
        _save(self.folder / part("add_count", number), np.array(add_count))
        _save(self.folder / f"invalid_range_ckpt.{number}.gz", np.zeros(5, np.int64))


def _save(path: Path, values: np.ndarray) -> None:
    with gzip.open(path, "wb", compresslevel=6) as file:
        np.save(file, values, allow_pickle=False)


class _Truth:
    """The rows that a reader should find, from where the ring put which step."""

    def __init__(self, episodes: list[Episode], ring: _Ring):
        self.found, self.padding = ring.found, ring.layout.padding
        names = ("frames", "action", "reward")
        self.columns = [np.concatenate([getattr(e, name) for e in episodes]) for name in names]
        stops = np.cumsum([len(e) for e in episodes])
        self.ends = {int(stop) - 1 for stop in stops}
        spans = zip(stops, episodes, strict=True)
        self.late = [range(int(s) - len(e), int(s)) for s, e in spans if e.late]

    def rows(self) -> Rows:
        kept: list[int] = []
        cut: set[int] = set()
        for number, dump in enumerate(self.found):
            steps = dump.steps[self._unclear(number) :]
            lost_after = {a for a, b in pairwise(steps) if b == STALE}
            if steps and number + 1 < len(self.found):
                lost_after.add(steps[-1])
            kept += [step for step in steps if step >= 0]
            cut |= lost_after - self.ends
        timed_out = self._timed_out(set(kept))
        truncated = np.array([step in cut or step in timed_out for step in kept], bool)
        terminated = np.array([step in self.ends for step in kept], bool) & ~truncated
        at = np.array(kept, int)
        frames, action, reward = (column[at] for column in self.columns)
        return Rows(frames, action, reward, terminated, truncated)

    def _unclear(self, number: int) -> int:
        """Rows at a file's start that are padding or cannot be told from it."""
        dump = self.found[number]
        first = dump.steps[: self.padding]
        zeros = int(np.cumprod([s == PAD or (s >= 0 and not self._any(s)) for s in first]).sum())
        if not dump.near:
            return zeros
        amid = self.found[number - 1].steps[-1] not in self.ends
        return zeros if amid and zeros == self.padding else 0

    def _any(self, step: int) -> bool:
        return step in self.ends or any(bool(np.any(column[step])) for column in self.columns)

    def _timed_out(self, kept: set[int]) -> set[int]:
        """Ends of late episodes of which no row is lost but the one between two near files."""
        joints = {a.steps[-1] + 1 for a, b in pairwise(self.found) if b.near}
        return {span[-1] for span in self.late if all(s in kept or s in joints for s in span)}
