"""The files of one DQN-Replay run, as Dopamine's logged replay buffer left them, as rows of a log.

The buffer is a ring of `capacity` rows that is dumped whole whenever its cursor stands at capacity
- 1, and once more at the end: file N of observation, action, reward and terminal, each gzip over
.npy, and add_count, the number of rows added in all. What follows from that (paper_facts, 4.3):

- the row at the cursor, and all behind it in the last file, are older than the file's other rows;
- the row that was written next is in no file, so two files never join;
- before each episode there are stack - 1 rows of zeros, which are no transitions;
- an episode that was stopped at the step cap is marked terminal as if it had ended.
"""

import gzip
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np

from scaledq.core.errors import DataError
from scaledq.core.task import Task
from scaledq.data.sources.folder import Folder
from scaledq.data.sources.npy import Npy
from scaledq.data.sources.piece import Rows

PARTS = {
    "observation": "$store$_observation",
    "action": "$store$_action",
    "reward": "$store$_reward",
    "terminal": "$store$_terminal",
    "add_count": "add_count",
}
DTYPES = {"action": "int32", "reward": "float32", "terminal": "uint8", "add_count": "int64"}
NAME = re.compile(r"(\$store\$_[a-z]+|add_count)_ckpt\.(\d{1,4})\.gz")

Damaged = Literal["refuse", "drop"]


@dataclass(frozen=True, slots=True)
class File:
    """File `number` of a run: `rows` of its `capacity` rows are its own."""

    number: int
    add_count: int
    capacity: int
    rows: int


def part(name: str, number: int) -> str:
    """The file's name of one of PARTS."""
    return f"{PARTS[name]}_ckpt.{number}.gz"


def numbers(folder: Folder) -> tuple[list[int], list[str]]:
    """Numbers of the files that are whole, sorted, and names of the parts that are missing.

    A number below the highest one of which nothing is there counts as missing, too.
    """
    there = {m.group(): int(m[2]) for m in map(NAME.fullmatch, folder.names()) if m}
    last = max(there.values(), default=-1)
    missing = {n: [part(p, n) for p in PARTS if part(p, n) not in there] for n in range(last + 1)}
    whole = [number for number, names in missing.items() if not names]
    return whole, [name for names in missing.values() for name in names]


def measure(folder: Folder, chosen: tuple[int, ...], task: Task) -> list[File]:
    """Finds out how many rows of each file count.

    A last file that says `capacity - 1` repeats the dump before it and is left out.

    Raises:
      DataError: a count that makes no sense, or frames of another shape than the first file's.
    """
    files = []
    for number in chosen:
        count = int(_column(folder, "add_count", number).reshape(-1)[0])
        with _array(folder, "observation", number) as frames:
            capacity = files[0].capacity if files else len(frames)
            _expect(frames, task.frame_dtype, (capacity, *task.frame_shape))
        if count < 0 or capacity < 1:
            raise DataError(f"{folder / part('add_count', number)}: {count} rows; fetch it again")
        files.append(File(number, count, capacity, count % capacity))
    if len(files) > 1 and _repeats(files[-1], files[-2]):
        files.pop()
    return [file for file in files if file.rows]


def _repeats(last: File, before: File) -> bool:
    return (
        last.number - 1 == before.number
        and last.add_count == last.capacity - 1
        and (before.add_count >= last.add_count)
    )


class Reader:
    """Reads the files of a run in order and counts what it leaves out."""

    def __init__(
        self,
        folder: Folder,
        files: list[File],
        task: Task,
        *,
        step_cap: int,
        padding: int,
        damaged: Damaged,
    ):
        self.padding_rows = self.damaged_rows = self.time_outs = 0
        self._folder, self._files, self._task = folder, files, task
        self._step_cap, self._padding, self._drop = step_cap, padding, damaged == "drop"
        # Steps of the episode under way, None where its start is not known.
        self._steps: int | None = None
        self._near = False

    def rows(self) -> Iterator[Rows]:
        """Every real row, in time order.

        Raises:
          DataError: a file that is damaged, of another shape or dtype than the others, or holds
            impossible values (naming file and row).
        """
        before = None
        for file in self._files:
            self._begin(file, before)
            yield from self._file(file, last=file is self._files[-1])
            before = file

    def _begin(self, file: File, before: File | None) -> None:
        """Across a joint one row is lost; the steps count on over it if it was the only one."""
        self._near = before is not None and file.add_count - before.add_count == file.capacity
        if not self._near:
            self._steps = None
        elif self._steps:
            self._steps += 1

    def _settle_start(self, padding: np.ndarray) -> None:
        """Decides about zero rows at a file's start, where black frames may look like padding.

        If just one row is lost there, it was padding itself after an episode's end; otherwise
        either it ended the episode, and all padding follows, or the episode goes on. Where more is
        lost nobody knows: black frames are left out with the padding, which stacks cannot tell.
        """
        most = self._padding
        if self._near and self._steps is not None:
            zeros = int(padding[:most].cumprod().sum())
            real = min(zeros, most - 1) if self._steps == 0 else most * (zeros == most)
            padding[real:zeros] = False

    def _file(self, file: File, *, last: bool) -> Iterator[Rows]:
        columns = _Columns(self._folder, file, self._task, drop=self._drop)
        self.damaged_rows += int(columns.damaged.sum())
        candidates = columns.padding(self._padding)
        is_padding = np.zeros(file.rows, bool)
        cut = columns.cut(joint=not last)
        with _array(self._folder, "observation", file.number) as frames:
            _expect(frames, self._task.frame_dtype, (file.capacity, *self._task.frame_shape))
            for start in range(0, file.rows, frames.portion):
                span = slice(start, min(start + frames.portion, file.rows))
                block = frames.read(span.stop - start)
                for row in start + np.flatnonzero(candidates[span]):
                    follows = columns.fresh[row] or is_padding[row - 1]
                    is_padding[row] = follows and not block[row - start].any()
                if start == 0:
                    self._settle_start(is_padding)
                keep = ~(is_padding[span] | columns.damaged[span])
                late = self._time_outs(columns, is_padding, span)[keep]
                ended = columns.terminal[span][keep]
                yield Rows(
                    block[keep] if not keep.all() else block,
                    columns.action[span][keep],
                    columns.reward[span][keep],
                    ended & ~late,
                    cut[span][keep] | late,
                )
            frames.finish()
        self.padding_rows += int(is_padding.sum())

    def _time_outs(self, columns: "_Columns", padding: np.ndarray, span: slice) -> np.ndarray:
        """Rows of the span at whose end their episode is exactly as long as the step cap."""
        terminal, broken, start = columns.terminal[span], columns.damaged[span], padding[span]
        late = np.zeros(len(terminal), bool)
        taken = np.cumsum(~(broken | start))
        steps, since = self._steps, 0
        for row in np.flatnonzero(terminal | broken | start):
            length = None if steps is None else steps + taken[row] - since
            late[row] = terminal[row] and length == self._step_cap
            steps, since = None if broken[row] else 0, taken[row]
        self._steps = None if steps is None else int(steps + taken[-1] - since)
        self.time_outs += int(late.sum())
        return late


class _Columns:
    """What a file says of its rows besides their frames, each [rows]."""

    def __init__(self, folder: Folder, file: File, task: Task, *, drop: bool):
        values = {name: _column(folder, name, file.number) for name in DTYPES if "_" not in name}
        for name, column in values.items():
            if len(column) != file.capacity:
                raise DataError(
                    f"{folder / part(name, file.number)}: {len(column)} rows, the observations "
                    f"have {file.capacity}; fetch the files again"
                )
        self.action, self.reward, terminal = (c[: file.rows] for c in values.values())
        faults = {
            "action": (self.action < 0) | (self.action >= task.actions),
            "reward": ~np.isfinite(self.reward),
            "terminal": terminal > 1,
        }
        self.damaged = np.logical_or.reduce(list(faults.values()))
        for name, bad in faults.items():
            if bad.any() and not drop:
                row = int(bad.argmax())
                raise DataError(
                    f"{folder / part(name, file.number)}: row {row} has {name} "
                    f"{values[name][row]}, {task.name} has actions 0 to {task.actions - 1}; "
                    "fetch it again, or say that damaged rows be dropped"
                )
        self.terminal = (terminal == 1) & ~self.damaged
        self.fresh = np.concatenate([[True], (self.terminal | self.damaged)[:-1]])
        """Rows that an episode may start in."""
        self._zero = (self.action == 0) & (self.reward == 0) & ~self.terminal & ~self.damaged

    def padding(self, most: int) -> np.ndarray:
        """Rows that are padding if their frames are zero: at most so many before an episode."""
        found = np.zeros(len(self._zero), bool)
        chain = self.fresh & self._zero
        for _ in range(most):
            found |= chain
            chain = np.concatenate([[False], chain[:-1]]) & self._zero
        return found

    def cut(self, *, joint: bool) -> np.ndarray:
        """Rows after which something is lost: a damaged row, or (at a joint) the file's end."""
        lost_next = np.concatenate([self.damaged[1:], [joint]])
        return lost_next & ~self.terminal


@contextmanager
def _array(folder: Folder, name: str, number: int) -> Iterator[Npy]:
    file_name = part(name, number)
    with folder.open(file_name) as packed, gzip.GzipFile(fileobj=packed) as file:
        yield Npy(file, str(folder / file_name))


def _column(folder: Folder, name: str, number: int) -> np.ndarray:
    with _array(folder, name, number) as array:
        _expect(array, DTYPES[name], array.shape if name == "add_count" else (len(array),))
        if name == "add_count" and len(array) != 1:
            raise DataError(f"{array.where}: {len(array)} counts instead of one; fetch it again")
        return array.whole()


def _expect(array: Npy, dtype: str, shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise DataError(
            f"{array.where}: should be {dtype} {shape}, is {array.dtype.name} {array.shape}; "
            "fetch it again"
        )
