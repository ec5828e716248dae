"""Minari datasets with discrete actions: a log for each, and (`minari_export`) a dataset for a log.

A dataset is a folder with metadata.json and main_data.hdf5 (or Arrow files); each episode has T + 1
observations for T steps, so each becomes T + 1 rows, the last with action -1. What a log has no
column for (how its spaces were written, which ends are only a recording's) goes into the manifest,
so that an export gives back what came in. Rewards become float32 and infos are left out.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from scaledq.core.config import config
from scaledq.core.errors import ConfigError, DataError, suggest
from scaledq.core.task import Task
from scaledq.data.manifest import Manifest
from scaledq.data.sources import stacks
from scaledq.data.sources.folder import Folder, filesystem, reading
from scaledq.data.sources.piece import Rows, write_rows

KEY = "scaledq"
"""Of metadata.json: what an export says beyond Minari's own keys."""
MAX_EPISODE = 1 << 30
"""Bytes of one array of one episode."""


@config
class Minari:
    """Which datasets to read."""

    kind: Literal["minari"] = "minari"
    source: str
    """A dataset's folder, a folder of datasets, or the id of one that Minari has downloaded."""
    tasks: tuple[str, ...] = ()
    """Names to read, of those found: a dataset's id with `/` written as `-`; all by default."""
    stack: int = 0
    """If more than 1: each observation is a stack of so many frames, the newest last. It becomes a
    single frame if the stacks overlap, as they do in a video, and stays as it is if not."""
    stack_axis: Literal["first", "last"] = "first"

    def __post_init__(self) -> None:
        if self.stack < 0 or self.stack == 1:
            raise ConfigError(f"minari: need stack >= 2 (or 0: none), got {self.stack}")

    def pieces(self) -> tuple["Dataset", ...]:
        """One log for each dataset.

        Raises:
          DataError: no dataset there, or one whose metadata cannot be read or that this cannot
            make a log of (its actions are not discrete).
        """
        found = [_dataset(folder) for folder in _datasets(self.source)]
        names = {dataset.task for dataset in found}
        unknown = sorted(set(self.tasks) - names)
        if unknown:
            raise DataError(f"{self.source} has no {unknown[0]!r}; {suggest(unknown[0], names)}")
        how = {"stack": self.stack, "stack_axis": self.stack_axis}
        return tuple(replace(one, **how) for one in found if one.task in (self.tasks or names))


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """One dataset: the piece of work that makes one log."""

    folder: str
    identity: str
    observation_space: str
    """As Minari writes it: JSON."""
    action_space: str
    jpeg: bool
    origin: str
    """JSON of the metadata's KEY."""
    stack: int = 0
    stack_axis: str = "first"

    @property
    def task(self) -> str:
        return self.identity.replace("/", "-")

    @property
    def name(self) -> str:
        return "log"

    @property
    def behaviour(self) -> str:
        return "unknown"

    @property
    def rules(self) -> None:
        return None

    @property
    def source(self) -> dict[str, str]:
        about = {"kind": "minari", "location": self.folder, "dataset": self.identity}
        if self.stack:
            about |= {"stack": str(self.stack), "stack_axis": self.stack_axis}
        return about

    def write(self, store: str, told: Callable[[int], None]) -> Manifest:
        """See Piece."""
        reader = Reader(self)
        with _local(self.folder) as folder:
            single = self.stack > 1 and self._overlap(folder)
            task, rows, extra = reader.task, reader.rows(folder), reader.extra
            if self.stack:
                extra = partial(self._told, reader, single=single)
            if single:
                rows = (r._replace(frames=self._stacks(r.frames)[:, -1]) for r in rows)
                task = replace(task, frame_shape=self._single(reader).shape)
            return write_rows(self, store, task, rows, told=told, extra=extra)

    def _overlap(self, folder: Path) -> bool:
        """Whether the newest frame of each stack says it all; reads the whole dataset."""
        blocks = (self._stacks(rows.frames) for rows in Reader(self).rows(folder))
        return stacks.overlap((block, np.arange(len(block)) == 0) for block in blocks)

    def _stacks(self, frames: np.ndarray) -> np.ndarray:
        with reading(f"{self.folder}: observations", "leave out the stack"):
            axis = 0 if self.stack_axis == "first" else -1
            return stacks.unstack(frames, size=self.stack, axis=axis)

    def _single(self, reader: "Reader") -> gym.spaces.Box:
        """The space of one frame of a stack."""
        box = reader.observations
        if not isinstance(box, gym.spaces.Box):
            raise DataError(f"{self.folder}: {box} holds no stack of frames; leave out the stack")
        low, high = (self._stacks(bound[None])[0, -1] for bound in (box.low, box.high))
        return gym.spaces.Box(low, high, dtype=box.dtype.type)

    def _told(self, reader: "Reader", *, single: bool) -> dict[str, Any]:
        from minari.serialization import serialize_space

        told = reader.extra() | {"stack": self.stack, "stacks_overlap": single}
        return told | (
            {"observation_space": serialize_space(self._single(reader))} if single else {}
        )


class Reader:
    """Turns episodes into rows, and notes what the rows do not say."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset
        self.observations, self.actions = spaces(dataset)
        flat = gym.spaces.flatten_space(self.observations) if self.composite else None
        box: Any = flat or self.observations
        self.task = Task(
            name=dataset.task,
            actions=int(self.actions.n),
            frame_shape=tuple(int(n) for n in box.shape) or (1,),
            frame_dtype=str(np.dtype(box.dtype)),
        )
        self._origin = json.loads(dataset.origin)
        self._open: list[int] = []
        self._rounded = 0

    @property
    def composite(self) -> bool:
        """Whether an observation has parts, which are joined into one vector."""
        return isinstance(self.observations, gym.spaces.Dict | gym.spaces.Tuple | gym.spaces.Text)

    def rows(self, folder: Path) -> Iterator[Rows]:
        """Every episode's rows, in the dataset's order.

        Raises:
          DataError: a damaged file, or an episode whose lengths or values make no sense.
        """
        where = self.dataset.folder
        with reading(where):
            storage = _storage(folder)
            total = storage.total_episodes
            episodes = iter(storage.get_episodes(range(total)))
        steps = 0
        for number in range(total):
            with reading(f"{where}: episode {number}"):
                episode = next(episodes, None)
                if episode is None:
                    raise ValueError(f"it is not there, metadata.json counts {total}")
                rows = self._episode(number, episode)
            steps += int((rows.action >= 0).sum())
            yield rows
        if steps != storage.total_steps:
            raise DataError(
                f"{where}: {steps} steps in its episodes, metadata.json says "
                f"{storage.total_steps}; fetch it again"
            )

    def extra(self) -> dict[str, Any]:
        """What an export needs to give back the same dataset."""
        return {
            "dataset": self.dataset.identity,
            "observation_space": self.dataset.observation_space,
            "action_space": self.dataset.action_space,
            "jpeg": self.dataset.jpeg,
            "open_episodes": self._open,
            "rewards_rounded": self._rounded,
        }

    def _episode(self, number: int, episode: dict[str, Any]) -> Rows:
        frames = self._frames(episode["observations"])
        action = np.asarray(episode["actions"]).astype(np.int64) - int(self.actions.start)
        reward = np.asarray(episode["rewards"], np.float64)
        flags = [np.asarray(episode[name]) for name in ("terminations", "truncations")]
        steps = len(action)
        for name, values in (("rewards", reward), ("terminations", flags[0]), ("trunc", flags[1])):
            if values.shape != (steps,):
                raise ValueError(f"{steps} actions, but {name} of shape {values.shape}")
        if frames.shape != (steps + 1, *self.task.frame_shape):
            raise ValueError(f"{steps} actions need {steps + 1} observations, has {frames.shape}")
        self._check(action, reward, *flags)
        terminated, truncated = (flag.astype(bool) for flag in flags)
        known = number not in self._origin.get("no_closing", [])
        if known and not (terminated[-1] or truncated[-1]):
            truncated[-1] = True
            self._open.append(number)
        self._rounded += int((reward.astype(np.float32) != reward).sum())
        columns = (action, reward.astype(np.float32), terminated, truncated)
        if not known:
            return Rows(frames[:-1], *columns)
        closing = (-1, 0, False, False)
        return Rows(frames, *(np.append(c, v) for c, v in zip(columns, closing, strict=True)))

    def _check(
        self, action: np.ndarray, reward: np.ndarray, terminated: np.ndarray, truncated: np.ndarray
    ) -> None:
        if not len(action):
            raise ValueError("it has no step")
        faults = {
            f"an action outside {self.actions}": (action < 0) | (action >= self.task.actions),
            "a reward that float32 cannot hold": ~(np.abs(reward) <= np.finfo(np.float32).max),
            "a flag that is neither 0 nor 1": ~(
                np.isin(terminated, (0, 1)) & np.isin(truncated, (0, 1))
            ),
        }
        ended = terminated.astype(bool) | truncated.astype(bool)
        faults["an end amid the episode"] = np.append(ended[:-1], False)
        for fault, bad in faults.items():
            if bad.any():
                raise ValueError(f"row {int(bad.argmax())} has {fault}")

    def _frames(self, values: Any) -> np.ndarray:
        if self.composite:
            flat = [np.asarray(gym.spaces.flatten(self.observations, v)) for v in _each(values)]
            return np.stack(flat).astype(self.task.frame_dtype)
        frames = np.asarray(values)
        if frames.dtype != self.task.frame_dtype:
            raise ValueError(f"observations are {frames.dtype}, its space {self.observations}")
        return frames.reshape(-1, *self.task.frame_shape)


def spaces(dataset: Dataset) -> tuple[gym.Space, gym.spaces.Discrete]:
    """A dataset's observation and action space; raises DataError if they make no task."""
    from minari.serialization import deserialize_space

    with reading(f"{dataset.folder}/metadata.json: its spaces"):
        observations = deserialize_space(dataset.observation_space)
        actions = deserialize_space(dataset.action_space)
    if not isinstance(actions, gym.spaces.Discrete):
        raise DataError(f"{dataset.folder}: actions are {actions}; only discrete ones are learned")
    if not observations.is_np_flattenable:
        raise DataError(f"{dataset.folder}: observations are {observations}, of no fixed size")
    return observations, actions


def _each(values: Any) -> Iterator[Any]:
    """One observation at a time, from columns of them."""
    if isinstance(values, dict):
        yield from (dict(zip(values, v, strict=True)) for v in _zip(values.values()))
    elif isinstance(values, tuple):
        yield from _zip(values)
    else:
        yield from values


def _zip(columns: Any) -> Iterator[tuple[Any, ...]]:
    yield from zip(*(_each(column) for column in columns), strict=True)


def _dataset(folder: str) -> Dataset:
    """Reads metadata.json, and neither builds nor imports the environment that it names."""
    try:
        import minari
    except ImportError as error:
        raise DataError("Minari is not installed; pip install 'scaledq[minari]'") from error
    where = f"{folder}/metadata.json"
    with Folder(folder).open("metadata.json") as file:
        text = file.read(1 << 24)
    with reading(where):
        data = json.loads(text)
        keys = ("dataset_id", "observation_space", "action_space", "minari_version")
        found = {key: data[key] for key in keys if isinstance(data.get(key), str)}
        jpeg, origin = bool(data.get("jpeg_encoding", True)), json.dumps(data.get(KEY, {}))
    missing = [key for key in keys if key not in found]
    if missing:
        raise DataError(f"{where}: no {missing[0]!r}; fetch it again, or write it with new Minari")
    if found["minari_version"] not in minari.supported_dataset_versions:
        raise DataError(f"{where}: written by Minari {found['minari_version']}; upgrade minari")
    dataset = Dataset(
        folder=folder,
        identity=found["dataset_id"],
        observation_space=found["observation_space"],
        action_space=found["action_space"],
        jpeg=jpeg,
        origin=origin,
    )
    _, actions = spaces(dataset)
    Task(name=dataset.task, actions=int(actions.n))  # refuses an id that is no folder's name
    return dataset


def _datasets(source: str) -> list[str]:
    """The folders with a metadata.json at `source` or below it."""
    if "://" not in source and not Path(source).exists():
        home = Path("~/.minari/datasets").expanduser()
        source = str(Path(os.environ.get("MINARI_DATASETS_PATH", home)) / source)
    with reading(f"cannot list {source}", "check the path, or download it with Minari first"):
        system, path = filesystem(source)
        found = sorted(p for p in system.find(path) if p.endswith("/metadata.json"))
        folders = [str(system.unstrip_protocol(p)).rpartition("/")[0] for p in found]
    tops = [f for f in folders if not any(f.startswith(f"{other}/") for other in folders)]
    if not tops:
        raise DataError(f"{source} holds no Minari dataset (metadata.json); check the path")
    return [top.removeprefix("file://") for top in tops]


@contextmanager
def _local(folder: str) -> Iterator[Path]:
    """The folder itself if it is on this machine's disk, or else a copy while it is needed."""
    if "://" not in folder:
        yield Path(folder)
        return
    with TemporaryDirectory() as copy:
        with reading(f"cannot copy {folder}", "check the connection"):
            system, path = filesystem(folder)
            for remote in system.find(path):
                name = str(remote).partition(path.strip("/"))[2].strip("/")
                if not name or ".." in Path(name).parts:
                    raise ValueError(f"{remote} is no file of it")
                (Path(copy) / name).parent.mkdir(parents=True, exist_ok=True)
                system.get_file(remote, str(Path(copy) / name))
        yield Path(copy)


def _storage(folder: Path) -> Any:
    from minari.dataset.minari_storage import MinariStorage

    main = folder / "main_data.hdf5"
    if main.exists():
        _inspect(main)
    return MinariStorage.read(folder)


def _inspect(main: Path) -> None:
    """Refuses an HDF5 file that points out of itself, or whose arrays are absurdly large."""
    import h5py

    def look(name: str, item: Any) -> str | None:
        if not isinstance(item, h5py.Dataset):
            return None
        if item.external or item.is_virtual:
            return f"{name} lies outside of the file"
        if item.size and item.size * item.dtype.itemsize > MAX_EPISODE:
            return f"{name} has shape {item.shape}"
        return None

    def link(name: str, item: Any) -> str | None:
        elsewhere = isinstance(item, h5py.ExternalLink | h5py.SoftLink)
        return f"{name} is a link to elsewhere" if elsewhere else None

    with h5py.File(main, "r") as file:
        fault = file.visititems_links(link) or file.visititems(look)
    if fault:
        raise ValueError(fault)
