"""Anybody's logs: .npz or .parquet files with a row for each step, one file or a folder of shards.

Columns: `observation` (any shape, the same in all rows), `action` (integers from 0), `reward`, and
`terminated`, `truncated` or both (0 or 1: the episode ended as a result of the row's action), or
`episode` (an id that changes where an episode ends). A row of action -1 holds nothing but an
episode's closing observation. Shards are read in the order of their names and continue each other.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from scaledq.core.config import config
from scaledq.core.errors import ConfigError, DataError, suggest
from scaledq.core.task import Task
from scaledq.data.manifest import Manifest
from scaledq.data.rows import CLOSING
from scaledq.data.sources import stacks, tables
from scaledq.data.sources.episodes import Ends
from scaledq.data.sources.folder import Folder, reading
from scaledq.data.sources.piece import Rows, write_rows

ENDS = ("terminated", "truncated", "episode")
DTYPES = "?bBhHiIlLqQefd"
"""NumPy's letters for what a frame may be made of."""


@config
class Arrays:
    """Where the files are, and what they do not say themselves."""

    kind: Literal["arrays"] = "arrays"
    source: str
    """A file; a folder of shards: one task; or a folder of such folders: a task for each."""
    tasks: tuple[str, ...] = ()
    """The name of the one task (the file's or folder's by default), or which folders to read."""
    actions: int | None = None
    """Size of the action set; the largest action + 1 by default."""
    ends: Literal["terminated", "truncated"] = "truncated"
    """What the end of an episode is where only a change of `episode` tells of it."""
    stack: int = 0
    """If more than 1: each observation is a stack of so many frames, the newest last. It becomes a
    single frame if the stacks overlap, as they do in a video, and stays as it is if not."""
    stack_axis: Literal["first", "last"] = "first"
    behaviour: str = "unknown"
    """Who acted."""

    def __post_init__(self) -> None:
        if self.stack < 0 or self.stack == 1 or (self.actions is not None and self.actions < 1):
            raise ConfigError("arrays: need stack >= 2 (or 0: none) and actions >= 1")

    def pieces(self) -> tuple["Table", ...]:
        """One log for each task.

        Raises:
          TaskError: a task name that is no folder's.
          DataError: no such file or folder, or one without a .npz or .parquet file.
        """
        top = Folder(self.source.rstrip("/"))
        if self.source.endswith(tables.SUFFIXES) and top.is_file():
            folder, _, file = self.source.rpartition("/")
            return (self._table(Folder(folder or "."), (file,), self._only(file)),)
        entries = top.names()
        files = _shards(entries)
        if files:
            return (self._table(top, files, self._only(top.path.rpartition("/")[2])),)
        unknown = sorted(set(self.tasks) - set(entries))
        if unknown:
            raise DataError(f"{top} has no folder {unknown[0]!r}; {suggest(unknown[0], entries)}")
        folders = {name: _shards((top / name).names()) for name in self.tasks or entries}
        if not folders or not all(folders.values()):
            empty = next((f"{top / name}" for name, found in folders.items() if not found), top)
            raise DataError(f"{empty} holds no .npz or .parquet file; check the path")
        return tuple(self._table(top / name, found, name) for name, found in folders.items())

    def _only(self, name: str) -> str:
        if len(self.tasks) > 1:
            raise DataError(f"{self.source} is one task, asked for {', '.join(self.tasks)}")
        return self.tasks[0] if self.tasks else re.sub(r"\.(npz|parquet)$", "", name)

    def _table(self, folder: Folder, files: tuple[str, ...], name: str) -> "Table":
        Task(name=name, actions=1)  # refuses a name that is no folder's
        return Table(config=self, folder=folder, files=files, task=name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """The files of one task: the piece of work that makes one log."""

    config: Arrays
    folder: Folder
    files: tuple[str, ...]
    task: str

    @property
    def name(self) -> str:
        return "log"

    @property
    def behaviour(self) -> str:
        return self.config.behaviour

    @property
    def rules(self) -> None:
        return None

    @property
    def source(self) -> dict[str, str]:
        chosen = ("kind", "actions", "ends", "stack", "stack_axis")
        return {
            "location": str(self.folder),
            "files": f"{len(self.files)}: {self.files[0]} to {self.files[-1]}",
            **{name: str(getattr(self.config, name)) for name in chosen},
        }

    def write(self, store: str, told: Callable[[int], None]) -> Manifest:
        """See Piece."""
        columns = self._columns()
        actions = self.config.actions or self._most_actions()
        single = self.config.stack > 1 and stacks.overlap(
            (self._stacks(rows.frames), fresh) for rows, fresh in self._rows(columns, actions)
        )
        first = next(self._rows(columns, actions), None)
        if first is None:
            raise DataError(f"{self.folder / self.files[0]}: no rows; check the path")
        shape = self._frames(first[0].frames, single=single).shape[1:] or (1,)
        dtype = first[0].frames.dtype.name
        task = Task(name=self.task, actions=actions, frame_shape=shape, frame_dtype=dtype)
        rows = (
            r._replace(frames=self._frames(r.frames, single=single).reshape(-1, *shape))
            for r, _ in self._rows(columns, actions)
        )
        extra = {"stack": self.config.stack, "stacks_overlap": single} if self.config.stack else {}
        return write_rows(self, store, task, rows, told=told, extra=lambda: extra)

    def _columns(self) -> tuple[str, ...]:
        """The columns to read, which every file must have."""
        file = self.files[0]
        there = tables.names(self.folder, file)
        for name in (tables.WIDE, "action", "reward"):
            if name not in there:
                raise DataError(f"{self.folder / file}: no column {name!r}; {suggest(name, there)}")
        ends = tuple(name for name in ENDS if name in there)
        if not ends:
            raise DataError(
                f"{self.folder / file}: no column says where episodes end; it needs one of "
                f"{', '.join(ENDS)}"
            )
        return (tables.WIDE, "action", "reward", *ends)

    def _most_actions(self) -> int:
        most = 0
        for file in self.files:
            for block in tables.blocks(self.folder, file, ("action",)):
                where = f"{self.folder / file}: column 'action'"
                action = integers(block["action"], where)
                most = max(most, int(action.max(initial=-1)) + 1)
        return max(most, 1)

    def _rows(self, columns: tuple[str, ...], actions: int) -> Iterator[tuple[Rows, np.ndarray]]:
        """All rows in order, and bool [k]: an episode starts there."""
        ends = Ends(by_id=self.config.ends)
        shape: tuple[object, ...] | None = None
        for file in self.files:
            first = 0
            for block in tables.blocks(self.folder, file, columns):
                where = str(self.folder / file)
                here = (block[tables.WIDE].dtype.name, *block[tables.WIDE].shape[1:])
                shape = shape or here
                if here != shape or block[tables.WIDE].dtype.char not in DTYPES:
                    raise DataError(
                        f"{where}: column 'observation': {here} from row {first} on, {shape} "
                        "before; every row needs the same shape and dtype of numbers"
                    )
                rows = checked(block, actions, where, first=first)
                yield from ends.add(rows, block.get("episode"))
                first += len(rows.action)
        yield from ends.close()

    def _stacks(self, observation: np.ndarray) -> np.ndarray:
        axis = 0 if self.config.stack_axis == "first" else -1
        with reading(f"{self.folder}: column 'observation'", "leave out the stack"):
            return stacks.unstack(observation, size=self.config.stack, axis=axis)

    def _frames(self, observation: np.ndarray, *, single: bool) -> np.ndarray:
        return self._stacks(observation)[:, -1] if single else observation


def checked(block: tables.Block, actions: int, where: str, *, first: int) -> Rows:
    """A block as rows of a log.

    Raises:
      DataError: naming file, column and row of the first impossible value.
    """
    action = integers(block["action"], f"{where}: column 'action'")
    reward = block["reward"]
    if reward.dtype.kind not in "iufb":
        raise DataError(f"{where}: column 'reward': should be numbers, is {reward.dtype}")
    with np.errstate(over="ignore"):
        reward = reward.astype(np.float32)
    flags = {name: _flags(block, name, len(action), where) for name in ENDS[:2]}
    closing = action == CLOSING
    faults: list[tuple[str, np.ndarray, str]] = [
        ("action", (action < CLOSING) | (action >= actions), f"not in 0 to {actions - 1}"),
        ("reward", ~np.isfinite(reward), "not finite"),
        ("reward", closing & (reward != 0), "a reward without an action"),
    ]
    for name, values in flags.items():
        faults.append((name, ~np.isin(values, (0, 1)), "neither 0 nor 1"))
        faults.append((name, closing & (values != 0), "an end without an action"))
    if "episode" in block and block["episode"].dtype.kind == "f":
        faults.append(("episode", np.isnan(block["episode"]), "no id"))
    for name, bad, fault in faults:
        if bad.any():
            row = int(bad.argmax())
            value = block[name][row]
            raise DataError(f"{where}: column {name!r}: row {first + row} is {value}: {fault}")
    return Rows(
        block[tables.WIDE],
        action.astype(np.int16),
        reward,
        *(values.astype(bool) for values in flags.values()),  # pyright: ignore[reportCallIssue]
    )


def integers(values: np.ndarray, where: str) -> np.ndarray:
    """The values; raises DataError if they are no integers."""
    if values.dtype.kind not in "iu":
        raise DataError(f"{where}: should be integers, is {values.dtype}")
    return values


def _flags(block: tables.Block, name: str, rows: int, where: str) -> np.ndarray:
    values = block.get(name, np.zeros(rows, bool))
    if values.dtype.kind not in "biuf":
        raise DataError(f"{where}: column {name!r}: should be 0 or 1, is {values.dtype}")
    return values


def _shards(names: Iterable[str]) -> tuple[str, ...]:
    """The files of rows among them, part 10 after part 9."""
    files = [name for name in names if name.endswith(tables.SUFFIXES)]
    return tuple(sorted(files, key=_natural))


def _natural(name: str) -> list[tuple[int, str]]:
    parts = re.findall(r"\d+|\D+", name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
