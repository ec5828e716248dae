"""Action logs: the byte or less a step from which an emulator makes a whole log again.

An action log is one .npz file (no pickles) of E episodes: `seed` int64 [E], which the episode's
environment was reset with; `steps` int64 [E]; `ended` uint8 [E], see `Ended`; `checksum` uint64
[E], see `Checksum`; `actions` uint8 or int16 [sum of steps]; and `header`, JSON: the log's manifest
as far as it is known before its rows are. Every episode can be played again by itself, in any
order, wherever emulator and ROM are those of the header.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path

import numpy as np

from scaledq.core.config import config, from_json, to_json
from scaledq.core.errors import DataError, ScaledQError
from scaledq.core.files import write_atomic
from scaledq.core.protocol import Protocol
from scaledq.core.task import Task
from scaledq.data.sources.folder import reading
from scaledq.data.sources.npy import Npy

FORMAT = 1
"""Version of the file's layout; readers refuse any other."""
DTYPES = {
    "header": ("uint8",),
    "seed": ("int64",),
    "steps": ("int64",),
    "ended": ("uint8",),
    "checksum": ("uint64",),
    "actions": ("uint8", "int16"),
}
"""Of the arrays, each [k]."""
NAME = "actions.npz"
"""The file beside a log's arrays in STORE/<task>/<log>/."""


class Ended(IntFlag):
    """How an episode ended. An emulator may report both at once."""

    CUT = 0
    """Not at all: the recording ended first, and no closing observation was kept."""
    TERMINATED = 1
    TRUNCATED = 2


@config
class Header:
    """What a LogWriter has to be told for the log to come out the same."""

    format: int = FORMAT
    task: Task
    name: str
    """Of the log."""
    behaviour: str
    protocol: Protocol
    source: dict[str, str]
    versions: dict[str, str]
    """Of whatever decides what an action leads to: the emulator, the game's ROM."""


@dataclass(frozen=True, slots=True)
class Episode:
    """One episode: where it starts, what was done, and what that must look like."""

    seed: int
    ended: Ended
    checksum: int
    actions: np.ndarray

    def __len__(self) -> int:
        return len(self.actions)


@dataclass(frozen=True, slots=True)
class ActionLog:
    """One log's episodes, in time order."""

    header: Header
    episodes: tuple[Episode, ...]

    @property
    def steps(self) -> int:
        return sum(len(episode) for episode in self.episodes)

    def save(self, path: Path) -> None:
        """Writes the file, whole or not at all; equal logs are equal files."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **pack(self))
        write_atomic(path, buffer.getvalue())


class Checksum:
    """64 bits over one episode's frames, rewards and ends, in whatever pieces they come."""

    def __init__(self) -> None:
        self._frames, self._rows = hashlib.sha256(), hashlib.sha256()

    def add(
        self,
        frames: np.ndarray,
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
    ) -> None:
        """Goes on with k rows: frames [k *frame], the rest [k]; a closing row is one of them."""
        rows = np.empty(len(reward), [("reward", "<f4"), ("terminated", "?"), ("truncated", "?")])
        rows["reward"], rows["terminated"], rows["truncated"] = reward, terminated, truncated
        self._frames.update(np.ascontiguousarray(frames).data)
        self._rows.update(rows.tobytes())

    @property
    def value(self) -> int:
        both = hashlib.sha256(self._frames.digest() + self._rows.digest())
        return int.from_bytes(both.digest()[:8], "little")


def pack(log: ActionLog) -> dict[str, np.ndarray]:
    """The arrays of the module's first lines, by name."""
    narrow = np.uint8 if log.header.task.actions <= 256 else np.int16
    episodes = log.episodes
    return {
        "header": np.frombuffer(to_json(log.header), np.uint8),
        "seed": np.array([e.seed for e in episodes], np.int64),
        "steps": np.array([len(e) for e in episodes], np.int64),
        "ended": np.array([int(e.ended) for e in episodes], np.uint8),
        "checksum": np.array([e.checksum for e in episodes], np.uint64),
        "actions": np.concatenate([np.empty(0, narrow), *(e.actions for e in episodes)]).astype(
            narrow
        ),
    }


def unpack(arrays: dict[str, np.ndarray], where: str) -> ActionLog:
    """Inverse of `pack`.

    Raises:
      DataError: an array is missing or is not what it should be, or the header of another version;
        the message starts with `where`.
    """
    try:
        _check_arrays(arrays)
        text = arrays["header"].tobytes()
        version = json.loads(text)["format"]
        if version != FORMAT:
            raise DataError(
                f"{where}: action log of format {version}, this scaledq reads {FORMAT}; "
                "use the scaledq that wrote it"
            )
        header = from_json(Header, text)
        if arrays["actions"].max(initial=0) >= header.task.actions:
            raise ValueError(f"an action that is not among {header.task.actions}")
        columns = [arrays[name].tolist() for name in ("seed", "ended", "checksum", "steps")]
        pieces = np.split(arrays["actions"], np.cumsum(columns.pop())[:-1])
        episodes = zip(*columns, pieces if columns[0] else (), strict=True)
        return ActionLog(header, tuple(Episode(s, Ended(e), c, a) for s, e, c, a in episodes))
    except (KeyError, ValueError, TypeError, RecursionError, ScaledQError) as error:
        if isinstance(error, DataError):
            raise
        fault = str(error).partition("\n")[0][:300]
        raise DataError(f"{where}: not a whole action log ({fault}); fetch it again") from error


def _check_arrays(arrays: dict[str, np.ndarray]) -> None:
    """Raises ValueError where one is of another dtype or shape, or of impossible values."""
    for name, dtypes in DTYPES.items():
        array = arrays[name]
        if array.ndim != 1 or array.dtype.name not in dtypes:
            raise ValueError(f"{name} should be {dtypes[0]} [k], is {array.dtype} {array.shape}")
    if len({len(arrays[name]) for name in ("seed", "steps", "ended", "checksum")}) > 1:
        raise ValueError("its columns are of different lengths")
    steps = arrays["steps"]
    if steps.min(initial=0) < 0 or sum(steps.tolist()) != len(arrays["actions"]):
        raise ValueError("its steps do not add up to its actions")
    if arrays["seed"].min(initial=0) < 0 or arrays["actions"].min(initial=0) < 0:
        raise ValueError("a seed or an action below 0")
    if arrays["ended"].max(initial=0) > Ended.TERMINATED | Ended.TRUNCATED:
        raise ValueError("an end of no known kind")


def load(path: Path) -> ActionLog:
    """Reads one file.

    Raises:
      DataError: there is none, or it is damaged or no action log.
    """
    if not path.is_file():
        raise DataError(f"no action log at {path}; check the path")
    with reading(f"{path}: not a whole action log"), zipfile.ZipFile(path) as packed:
        arrays = {}
        for name in DTYPES:
            with packed.open(f"{name}.npy") as file:
                arrays[name] = Npy(file, f"{path}: {name}").whole()
    return unpack(arrays, str(path))


def find(source: Path, *, tasks: Sequence[str] | None = None) -> dict[str, list[ActionLog]]:
    """The action logs of a file, or of a folder (a store, too) and all below it, by task and name.

    Raises:
      DataError: there is none, two are of the same log, or a task of `tasks` has none.
    """
    paths = [source] if source.is_file() else sorted(source.rglob("*.npz"))
    if not paths:
        raise DataError(f"no action log (*.npz) at {source}; check the path")
    found: dict[str, list[ActionLog]] = {}
    for path in paths:
        log = load(path)
        logs = found.setdefault(log.header.task.name, [])
        if any(log.header.name == other.header.name for other in logs):
            raise DataError(
                f"{path}: a second action log of {log.header.task.name}/{log.header.name}; "
                "regenerate them into separate stores"
            )
        logs.append(log)
    missing = sorted(set(tasks or ()) - set(found))
    if missing:
        raise DataError(f"{source} has no action log of {missing[0]}; it has {', '.join(found)}")
    chosen = sorted(tasks or found)
    return {task: sorted(found[task], key=lambda log: log.header.name) for task in chosen}
