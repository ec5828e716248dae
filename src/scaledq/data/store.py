"""Logs on disk: what a store, a log and a manifest are, and how they are read.

STORE/<task>/<log>/ is a Zarr v3 group of five arrays over T rows: `frames` [T, *frame], `action`
int16, `reward` float32, `terminated` and `truncated` bool [T]. Row t holds o_t, a_t, the raw reward
that followed and whether the episode ended as a result. A closing observation, where it is known,
is one more row with action -1. The group's zarr.json is written last and carries the manifest: a
log without it is unfinished and holds no data for anybody.
"""

import json
from functools import cached_property
from pathlib import Path

import numpy as np
import tensorstore as ts

from scaledq.core.errors import DataError, suggest
from scaledq.core.task import Task
from scaledq.data import zarr
from scaledq.data.manifest import (
    Manifest,
    read_manifest,
)
from scaledq.data.rows import COLUMNS

ARRAYS = ("frames", *COLUMNS)
INDEX = "index.json"
"""A list of `task/log`: web servers cannot be asked for their files, and buckets answer slowly."""
AGAIN = "write it again (docs/store.md)"
VERIFY = "`scaledq inspect STORE --verify` lists all damage"


class Log:
    """The experience of one task from one behaviour, in time order."""

    def __init__(self, path: str, place: zarr.Place, manifest: Manifest, missing: zarr.Missing):
        self.path, self.manifest = path, manifest
        self._place = place
        self._missing: zarr.Missing = missing

    @property
    def task(self) -> Task:
        return self.manifest.task

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def digest(self) -> str:
        """Names the data: logs with equal content share it."""
        return self.manifest.digest

    def __len__(self) -> int:
        return self.manifest.counts.rows

    @cached_property
    def frames(self) -> ts.TensorStore:
        """[T, *frame], read when asked."""
        return self.array("frames")

    @cached_property
    def action(self) -> np.ndarray:
        """int16 [T]; -1 in a row that only closes an episode."""
        return self.read("action")

    @cached_property
    def reward(self) -> np.ndarray:
        """float32 [T], raw."""
        return self.read("reward")

    @cached_property
    def terminated(self) -> np.ndarray:
        """bool [T]"""
        return self.read("terminated")

    @cached_property
    def truncated(self) -> np.ndarray:
        """bool [T]"""
        return self.read("truncated")

    def array(self, name: str) -> ts.TensorStore:
        """One of the five arrays as TensorStore opens it.

        Raises:
          DataError: it is missing, or is not what the manifest says.
        """
        try:
            place = zarr.below(self._place, name)
            array = zarr.open_array(place, missing=self._missing)
        except zarr.FAILURES as error:
            raise self.failure(name, error) from error
        frames = name == "frames"
        shape = (len(self), *self.task.frame_shape) if frames else (len(self),)
        dtype = self.task.frame_dtype if frames else COLUMNS[name]
        if (array.shape, array.dtype.name) != (shape, dtype):
            raise DataError(
                f"log {self.path}: {name} should be {dtype} {shape}, its zarr.json says "
                f"{array.dtype.name} {array.shape}; fetch the log again"
            )
        return array

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows start..stop-1 of one array, not held; raises DataError where they are damaged."""
        array = self.array(name)
        try:
            return array[start:stop].read().result()
        except zarr.FAILURES as error:
            raise self.failure(name, error) from error

    def failure(self, name: str, error: Exception) -> DataError:
        """What to raise when a read of array `name` failed: it names the log."""
        return zarr.failure(error, f"log {self.path}: cannot read {name}", VERIFY)


class Store:
    """A folder of logs, by task."""

    def __init__(self, path: str, logs: dict[str, tuple[Log, ...]], unfinished: tuple[str, ...]):
        self.path = path
        self.unfinished = unfinished
        """`task/log` of every log that is being written, or whose writer died."""
        self._logs = logs

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks that have a finished log, sorted."""
        return tuple(self._logs)

    def __contains__(self, task: str) -> bool:
        return task in self._logs

    def __getitem__(self, task: str) -> tuple[Log, ...]:
        """The task's logs, by name; raises DataError with a suggestion."""
        if task in self._logs:
            return self._logs[task]
        if any(name.startswith(f"{task}/") for name in self.unfinished):
            raise DataError(
                f"store {self.path}: no log of {task} is finished; record it to its end"
            )
        raise DataError(f"store {self.path} has no task {task!r}; {suggest(task, self._logs)}")


def open_store(path: str | Path, *, missing: zarr.Missing = "error") -> Store:
    """Reads what logs there are, but none of their rows.

    Where the files cannot be listed, or only slowly, the store's index says which logs there are;
    a bucket without one is listed.

    Args:
      path: a local folder, or a gs://, s3://, http(s):// or memory:// URL.
      missing: "zeros" reads blocks that are not there as zeros, in arrays made sparse on purpose.

    Raises:
      DataError: no store there, a manifest that is damaged or of another version, or logs of one
        task that disagree about it.
    """
    root = str(path).rstrip("/")
    place = zarr.location(root)
    with zarr.naming(f"store {root}", "check the path and the connection"):
        folder = zarr.open_folder(place)
        finished, unfinished = _names(folder, place)
        reads = {name: folder.read(f"{name}/zarr.json") for name in finished}
        texts = {name: read.result().value for name, read in reads.items()}
    if not finished and not unfinished:
        raise DataError(f"no store at {root}: it holds no STORE/<task>/<log>; check the path")
    logs: dict[str, list[Log]] = {}
    for name, text in texts.items():
        if not text:
            raise DataError(f"store {root}: its {INDEX} names {name}, which is not there; {AGAIN}")
        manifest = read_manifest(text, f"log {root}/{name}")
        where = zarr.below(place, *name.split("/"))
        log = Log(f"{root}/{name}", where, manifest, missing)
        logs.setdefault(manifest.task.name, []).append(log)
    for task, members in logs.items():
        _agree(root, task, members)
    return Store(root, {task: tuple(logs[task]) for task in sorted(logs)}, unfinished)


def _names(folder: ts.KvStore, place: zarr.Place) -> tuple[list[str], tuple[str, ...]]:
    """Every `task/log` that is finished, and every one that is not."""
    if place["driver"] == "file":  # two levels of folders, not every file below them
        root = Path(place["path"])
        keys = [str(p.relative_to(root)) for p in root.glob("*/*/zarr.json")]
        keys += [str(p.relative_to(root)) for p in root.glob("*/*/frames/zarr.json")]
    else:
        found = _index(folder, needed=place["driver"] == "http")
        if found is not None:
            return found, ()
        keys = [key.decode() for key in folder.list().result()]
    parts = [key.split("/") for key in keys if key.endswith("zarr.json")]
    finished = {"/".join(p[:2]) for p in parts if len(p) == 3}
    begun = {"/".join(p[:2]) for p in parts if len(p) == 4}
    return sorted(finished), tuple(sorted(begun - finished))


def _index(folder: ts.KvStore, *, needed: bool) -> list[str] | None:
    answer = folder.read(INDEX).result()
    if answer.state != "value" and needed:
        raise DataError(
            f"no {INDEX} at {folder.url}: a web server lists nothing; let write_index make it "
            "where the store lies (docs/store.md)"
        )
    if answer.state != "value":
        return None
    names = json.loads(answer.value)
    if not isinstance(names, list) or not all(map(_is_name, names)):
        raise DataError(f"{folder.url}{INDEX} is no list of `task/log`; {AGAIN}")
    return names


def _is_name(name: object) -> bool:
    parts = name.split("/") if isinstance(name, str) else []
    return len(parts) == 2 and not {"", ".", ".."} & set(parts)


def write_index(store: Store) -> None:
    """Lists the finished logs in STORE/index.json, so that opening it elsewhere needs no listing.

    Whatever adds a log takes the index away; `collect` and `ingest` write a new one at their end.
    """
    names = [f"{task}/{log.name}" for task in store.tasks for log in store[task]]
    with zarr.naming(f"store {store.path}: cannot write {INDEX}", "free some space"):
        zarr.open_folder(zarr.location(store.path)).write(INDEX, json.dumps(names)).result()


def _agree(root: str, task: str, logs: list[Log]) -> None:
    for log in logs[1:]:
        if log.task != logs[0].task:
            raise DataError(
                f"store {root}: logs {logs[0].name} and {log.name} of {task} disagree about its "
                f"actions or frames ({logs[0].task} and {log.task}); keep them in separate stores"
            )
