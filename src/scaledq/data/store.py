"""Logs on disk: what a store, a log and a manifest are, and how they are written and read.

STORE/<task>/<log>/ is a Zarr v3 group of five arrays over T rows: `frames` [T, *frame], `action`
int16, `reward` float32, `terminated` and `truncated` bool [T]. Row t holds o_t, a_t, the raw reward
that followed and whether the episode ended as a result. A closing observation, where it is known,
is one more row with action -1. The group's zarr.json is written last and carries the manifest: a
log without it is unfinished and holds no data for anybody.
"""

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType

import numpy as np
import tensorstore as ts
from pydantic import JsonValue

from scaledq.core.errors import DataError, suggest
from scaledq.core.protocol import Protocol
from scaledq.core.task import Task
from scaledq.data import zarr
from scaledq.data.blocks import Blocks
from scaledq.data.manifest import (
    COLUMN_SHARDS,
    FORMAT,
    Manifest,
    Tally,
    digest,
    read_manifest,
    write_manifest,
)
from scaledq.data.rows import COLUMNS, check

SHARD = 2048
"""Frames in one file."""
EMPTY_GROUP = json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}})
ARRAYS = ("frames", *COLUMNS)
INDEX = "index.json"
"""A list of `task/log`, for web servers, which cannot be asked for their files."""
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
        manifest = read_manifest(text, f"log {root}/{name}")
        where = zarr.below(place, *name.split("/"))
        log = Log(f"{root}/{name}", where, manifest, missing)
        logs.setdefault(manifest.task.name, []).append(log)
    for task, members in logs.items():
        _agree(root, task, members)
    return Store(root, {task: tuple(logs[task]) for task in sorted(logs)}, unfinished)


def _names(folder: ts.KvStore, place: zarr.Place) -> tuple[list[str], tuple[str, ...]]:
    """Every `task/log` that is finished, and every one that is not."""
    if place["driver"] == "http":
        keys = [f"{name}/zarr.json" for name in _index(folder)]
    elif place["driver"] == "file":  # two levels of folders, not every file below them
        root = Path(place["path"])
        keys = [str(p.relative_to(root)) for p in root.glob("*/*/zarr.json")]
        keys += [str(p.relative_to(root)) for p in root.glob("*/*/frames/zarr.json")]
    else:
        keys = [key.decode() for key in folder.list().result()]
    parts = [key.split("/") for key in keys if key.endswith("zarr.json")]
    finished = {"/".join(p[:2]) for p in parts if len(p) == 3}
    begun = {"/".join(p[:2]) for p in parts if len(p) == 4}
    return sorted(finished), tuple(sorted(begun - finished))


def _index(folder: ts.KvStore) -> list[str]:
    answer = folder.read(INDEX).result()
    if answer.state != "value":
        raise DataError(
            f"no {INDEX} at {folder.url}: a web server lists nothing; let write_index make it "
            "where the store lies (docs/store.md)"
        )
    return json.loads(answer.value)


def write_index(store: Store) -> None:
    """Lists the finished logs in STORE/index.json; needed only before serving it over HTTP."""
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


class LogWriter:
    """Appends rows to one log; nobody sees it before `finish`. One writer a log.

    Args:
      store: the store's path or URL.
      name: of the log in its task; a finished log of that name is never overwritten.
      behaviour: who acts; `protocol`: how it is played, if known.
      source, versions: where the data come from, and what could make them differ.
      shard: frames in one file, a multiple of 16.
      resume: keep so many rows of the unfinished log of that name (as many as were flushed, or
        fewer) and go on after them; 0 starts anew.

    Raises:
      DataError: the log is finished already, has fewer rows to resume from, or cannot be written.
    """

    def __init__(  # noqa: PLR0913  (what a log must say about itself)
        self,
        store: str | Path,
        task: Task,
        name: str,
        *,
        behaviour: str,
        protocol: Protocol | None,
        source: dict[str, str],
        versions: dict[str, str],
        shard: int = SHARD,
        resume: int = 0,
    ):
        if not name or name in (".", "..") or any(c in name for c in '/\\\0\n"'):
            raise DataError(f"a log's name must be usable as a folder's, got {name!r}")
        if shard < zarr.CHUNK or shard % zarr.CHUNK:
            raise DataError(f"a shard holds a multiple of {zarr.CHUNK} frames, got {shard}")
        self.task, self.name, self.shard = task, name, shard
        self.path = f"{str(store).rstrip('/')}/{task.name}/{name}"
        self._about = {"behaviour": behaviour, "protocol": protocol, "source": source}
        self._about |= {"versions": versions}
        self._store = zarr.location(store)
        self._place = zarr.below(self._store, task.name, name)
        self._tally = Tally()
        self._arrays: dict[str, Blocks] | None = None
        with self._writing():
            self._group = zarr.open_folder(self._place)
            if self._group.read("zarr.json").result().state == "value":
                raise DataError(
                    f"log {self.path} is finished already; choose another name or store"
                )
            self._arrays = self._resumed(resume) if resume else self._created()

    def __len__(self) -> int:
        """Rows appended so far."""
        return self._tally.rows

    def __enter__(self) -> "LogWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def append(
        self,
        frames: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
    ) -> None:
        """Adds k consecutive rows: frames [k *frame] of the task's dtype, the rest [k].

        Raises:
          DataError: a wrong shape or dtype, lengths that disagree, an action outside [-1, A), a
            reward that is not finite, a closing row with a reward or an end; or a full disk.
        """
        given = dict(zip(COLUMNS, (action, reward, terminated, truncated), strict=True))
        columns = check(self.task, frames, given, where=f"log {self.path}", first=len(self))
        with self._writing():
            for name, values in {"frames": frames, **columns}.items():
                self._open[name].append(values)
        self._count(columns)

    def flush(self) -> int:
        """Puts every row on disk and returns how many there are: what `resume` can take."""
        arrays = self._open.values()
        with self._writing(), ThreadPoolExecutor(len(arrays)) as together:
            list(together.map(Blocks.flush, arrays))
        return len(self)

    def finish(self, extra: Mapping[str, JsonValue] | None = None) -> Manifest:
        """Completes the log and makes it visible; `extra` goes into the manifest.

        Raises:
          DataError: no rows, or a full disk.
        """
        if not self.flush():
            raise DataError(f"log {self.path}: nothing to finish, it has no rows")
        manifest = self._manifest(dict(extra or {}))
        with self._writing():
            for group in (self._store, zarr.below(self._store, self.task.name)):
                zarr.open_folder(group).write("zarr.json", EMPTY_GROUP).result()
            self._group.write("zarr.json", write_manifest(manifest)).result()
        self.close()
        return manifest

    def close(self) -> None:
        """Stops here. Without `finish` the log stays unfinished: invisible, open to `resume`."""
        self._arrays = None

    @property
    def _open(self) -> dict[str, Blocks]:
        if self._arrays is None:
            raise DataError(f"log {self.path}: this writer is closed; resume with a new one")
        return self._arrays

    def _manifest(self, extra: dict[str, JsonValue]) -> Manifest:
        checksums = {name: tuple(array.checksums) for name, array in self._open.items()}
        counts = self._tally.counts()
        return Manifest(
            format=FORMAT,
            task=self.task,
            name=self.name,
            counts=counts,
            shard=self.shard,
            checksums=checksums,
            digest=digest(self.task, counts, checksums),
            extra=extra,
            **self._about,
        )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Around whatever touches the disk: after a failure this writer takes no more."""
        try:
            with zarr.naming(
                f"log {self.path}: cannot write", "it stays invisible; free some space"
            ):
                yield
        except BaseException:
            self.close()
            raise

    def _count(self, columns: dict[str, np.ndarray]) -> None:
        ended = columns["terminated"] | columns["truncated"]
        self._tally.add(columns["action"], columns["reward"], ended)

    def _created(self) -> dict[str, Blocks]:
        self._group.delete_range(ts.KvStore.KeyRange()).result()
        return {name: self._create(name) for name in ARRAYS}

    def _create(self, name: str) -> Blocks:
        frames = name == "frames"
        shape = (0, *self.task.frame_shape) if frames else (0,)
        block = self._block(name)
        array = zarr.create(
            zarr.below(self._place, name),
            shape,
            self.task.frame_dtype if frames else COLUMNS[name],
            block=block,
            chunk=zarr.CHUNK if frames else block,
        )
        return Blocks(array, block)

    def _resumed(self, rows: int) -> dict[str, Blocks]:
        places = {name: zarr.below(self._place, name) for name in ARRAYS}
        arrays = {name: zarr.open_array(place) for name, place in places.items()}
        shortest = min(array.shape[0] for array in arrays.values())
        if shortest < rows:
            raise DataError(f"log {self.path} cannot resume at row {rows}, it has {shortest}")
        self._count({name: arrays[name][:rows].read().result() for name in COLUMNS})
        blocks = {name: Blocks(arrays[name], self._block(name)) for name in ARRAYS}
        for array in blocks.values():
            array.keep(rows)
        return blocks

    def _block(self, name: str) -> int:
        return self.shard if name == "frames" else self.shard * COLUMN_SHARDS
