"""A log as a Minari dataset, without loss: raw arrays, no JPEG.

Minari wants an observation after every episode's last step. Where the log has none, the last one
stands there again, and metadata.json says so (`scaledq.no_closing`), so that reading the dataset
with scaledq gives the log back.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium as gym
import numpy as np

from scaledq.core.errors import DataError
from scaledq.data.sources.folder import reading
from scaledq.data.sources.minari import KEY
from scaledq.data.store import Log, open_store

BATCH = 64
"""Episodes that are handed to Minari at a time."""


def export_minari(
    store: str | Path, root: Path, *, task: str, dataset: str = "", log: str = ""
) -> Path:
    """Writes one log of `store` as the dataset ROOT/<dataset>/data.

    Args:
      root: a folder of Minari datasets, such as $MINARI_DATASETS_PATH.
      dataset: its id, such as `company/shop-v0`; the one it was read from by default, or
        `scaledq/<task>-v0`.
      log: which of the task's logs; it may be left out if there is one.

    Raises:
      DataError: no such task or log, a dataset of that id exists, or a file cannot be written.
    """
    try:
        import minari
        from minari.dataset.minari_storage import MinariStorage
    except ImportError as error:
        raise DataError("Minari is not installed; pip install 'scaledq[minari]'") from error
    chosen = _log(store, task, log)
    origin = chosen.manifest.extra if "observation_space" in chosen.manifest.extra else {}
    identity = dataset or str(origin.get("dataset", f"scaledq/{task.replace(':', '-')}-v0"))
    observations, actions = _spaces(chosen, origin)
    episodes = Episodes(chosen, observations, actions, origin)
    root = root.absolute()  # Minari joins a relative path to itself where it adds up sizes
    target = root / identity / "data"
    if ".." in Path(identity).parts or target.exists():
        raise DataError(f"cannot write {target}: it exists, or leads elsewhere; choose another id")
    with reading(f"cannot write {target}", "choose another folder"):
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=root) as made:
            storage = MinariStorage.new(
                Path(made) / "data",
                observation_space=observations,
                action_space=actions,
                jpeg_encoding=False,
            )
            storage.update_metadata(
                {"dataset_id": identity, "minari_version": minari.__version__, "author": set()}
            )
            for start in range(0, len(episodes), BATCH):
                storage.update_episodes(episodes.buffers(start, start + BATCH))
            storage.update_metadata({KEY: {"no_closing": episodes.no_closing}})
            shutil.move(Path(made) / "data", target)
    return target


class Episodes:
    """A log's episodes as Minari takes them."""

    def __init__(
        self, log: Log, observations: gym.Space, actions: gym.spaces.Discrete, origin: Any
    ):
        self._log, self._space, self._first = log, observations, int(actions.start)
        self._open = set(origin.get("open_episodes", ()))
        closing = log.action < 0
        closed = np.append(closing[1:], [False])
        final = np.arange(len(closing)) == len(closing) - 1
        last = np.flatnonzero(~closing & (log.terminated | log.truncated | closed | final))
        self._stops = last + 1
        acted = np.flatnonzero(~closing)
        self._starts = acted[np.searchsorted(acted, np.concatenate([[0], self._stops[:-1]]))]
        self._closed = closed[last]
        self.no_closing = np.flatnonzero(~self._closed).tolist()

    def __len__(self) -> int:
        return len(self._stops)

    def buffers(self, start: int, stop: int) -> Iterator[Any]:
        """Episodes start..stop-1."""
        from minari.data_collector import EpisodeBuffer

        for number in range(start, min(stop, len(self))):
            rows = slice(int(self._starts[number]), int(self._stops[number]))
            truncated = self._log.truncated[rows].copy()
            truncated[-1] &= number not in self._open
            yield EpisodeBuffer(
                observations=self._observations(rows, closed=bool(self._closed[number])),
                actions=list(self._log.action[rows].astype(np.int64) + self._first),
                rewards=list(self._log.reward[rows].astype(np.float64)),
                terminations=list(self._log.terminated[rows]),
                truncations=list(truncated),
                infos=None,
            )

    def _observations(self, rows: slice, *, closed: bool) -> Any:
        frames = self._log.read("frames", rows.start, rows.stop + closed)
        if not closed:
            frames = np.concatenate([frames, frames[-1:]])
        if isinstance(self._space, gym.spaces.Dict | gym.spaces.Tuple | gym.spaces.Text):
            return _columns([gym.spaces.unflatten(self._space, f) for f in frames])
        return list(frames.reshape(len(frames), *(self._space.shape or ())))


def _columns(values: list[Any]) -> Any:
    """Observations with parts as parts with lists of observations."""
    if isinstance(values[0], dict):
        return {key: _columns([v[key] for v in values]) for key in values[0]}
    if isinstance(values[0], tuple):
        return tuple(_columns(list(part)) for part in zip(*values, strict=True))
    return values


def _log(store: str | Path, task: str, name: str) -> Log:
    logs = {log.name: log for log in open_store(store)[task]}
    if not name and len(logs) == 1:
        name = next(iter(logs))
    if name not in logs:
        raise DataError(f"store {store}: which log of {task}? It has {', '.join(logs)}")
    return logs[name]


def _spaces(log: Log, origin: Any) -> tuple[gym.Space, gym.spaces.Discrete]:
    from minari.serialization import deserialize_space

    if origin:
        with reading(f"log {log.path}: its spaces", "read the dataset again"):
            actions = deserialize_space(origin["action_space"])
            assert isinstance(actions, gym.spaces.Discrete)
            return deserialize_space(origin["observation_space"]), actions
    dtype = np.dtype(log.task.frame_dtype)
    low, high = -np.inf, np.inf
    if dtype.kind in "iu":
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    elif dtype.kind == "b":
        low, high = 0, 1
    box = gym.spaces.Box(low, high, log.task.frame_shape, dtype.type)
    return box, gym.spaces.Discrete(log.task.actions)
