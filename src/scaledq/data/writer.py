"""How a log comes to be: appended row by row, invisible until it is whole."""

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np
import tensorstore as ts
from pydantic import JsonValue

from scaledq.core.errors import DataError
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
    write_manifest,
)
from scaledq.data.rows import COLUMNS, check
from scaledq.data.store import ARRAYS, INDEX

SHARD = 2048
"""Frames in one file."""
EMPTY_GROUP = json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}})


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

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows start..stop-1 of an array (`frames`, `action`, ...), as the last flush left them.

        Raises:
          DataError: they are missing or damaged.
        """
        with zarr.naming(f"log {self.path}: cannot read {name}", "start the recording anew"):
            return self._open[name].read(start, stop)

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
            zarr.open_folder(self._store).write(INDEX, None).result()  # it would hide this log
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
