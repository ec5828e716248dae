"""What a log says about itself: the manifest in its group's zarr.json."""

import hashlib
import json
import zlib
from typing import Any

import numpy as np
from pydantic import JsonValue

from scaledq.core.config import config, from_json, to_json
from scaledq.core.errors import DataError
from scaledq.core.protocol import Protocol
from scaledq.core.task import Task

FORMAT = 1
"""Version of the store's layout; readers refuse any other."""
COLUMN_SHARDS = 32
"""A file of a column holds the rows of so many shards: 65,536 by default."""


@config
class Counts:
    """What a log holds. An episode counts where it ends (a joint between pieces is an end, too)."""

    rows: int
    transitions: int
    """Rows with an action."""
    episodes: int
    return_sum: float
    """Of raw rewards, over the episodes that ended."""
    return_best: float | None

    @property
    def return_mean(self) -> float | None:
        return self.return_sum / self.episodes if self.episodes else None


class Tally:
    """Counts rows as they come, in any portions."""

    def __init__(self) -> None:
        self.rows = self.transitions = self.episodes = 0
        self._sum, self._best, self._running = 0.0, -np.inf, 0.0

    def add(self, action: np.ndarray, reward: np.ndarray, ended: np.ndarray) -> None:
        """Takes the next k rows, each [k]."""
        self.rows += len(action)
        self.transitions += int((action >= 0).sum())
        self.episodes += int(ended.sum())
        total = self._running + np.cumsum(reward, dtype=np.float64)
        at_ends = total[ended]
        if len(at_ends):
            self._sum += float(at_ends[-1])
            self._best = max(self._best, float(np.diff(at_ends, prepend=0.0).max()))
        if len(total):
            self._running = float(total[-1] - at_ends[-1] if len(at_ends) else total[-1])

    def counts(self) -> Counts:
        best = self._best if self.episodes else None
        return Counts(
            rows=self.rows,
            transitions=self.transitions,
            episodes=self.episodes,
            return_sum=self._sum,
            return_best=best,
        )


@config
class Manifest:
    """Everything about a log but its rows: the attribute `scaledq` of the group."""

    format: int
    task: Task
    name: str
    behaviour: str
    """Who acted."""
    protocol: Protocol | None
    """How it was played; None where the source does not say."""
    source: dict[str, str]
    versions: dict[str, str]
    counts: Counts
    shard: int
    checksums: dict[str, tuple[int, ...]]
    """CRC-32 of the raw bytes of every block (file) of every array."""
    digest: str
    """SHA-256 of task, counts and checksums: equal where the data are equal."""
    finished: bool = True
    extra: dict[str, JsonValue]

    def rows_in_a_file(self, array: str) -> int:
        """Of one of the log's arrays: its blocks, and what each checksum covers."""
        return self.shard if array == "frames" else self.shard * COLUMN_SHARDS


def digest(task: Task, counts: Counts, checksums: dict[str, tuple[int, ...]]) -> str:
    """The manifest's field of that name."""
    content = (to_json(task), to_json(counts), json.dumps(checksums, sort_keys=True).encode())
    return hashlib.sha256(b"".join(content)).hexdigest()


def write_manifest(manifest: Manifest) -> bytes:
    """The group's zarr.json: the manifest and a checksum of it."""
    value = json.loads(to_json(manifest))
    attributes = {"scaledq": value, "scaledq_crc32": _crc(value)}
    group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    return json.dumps(group, indent=1).encode()


def read_manifest(text: bytes, where: str) -> Manifest:
    """Inverse of `write_manifest`; raises DataError that starts with `where`."""
    try:
        attributes = json.loads(text)["attributes"]
        value, crc = attributes["scaledq"], attributes["scaledq_crc32"]
        version = value["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{where}: zarr.json holds no manifest of a log; give the folder that holds "
            "<task>/<log>, or fetch it again"
        ) from error
    if version != FORMAT:
        raise DataError(
            f"{where}: format version {version!r}, this scaledq reads version {FORMAT}; "
            "use the scaledq that wrote it, or write the log again"
        )
    if crc != _crc(value):
        raise DataError(f"{where}: the manifest in zarr.json is damaged; fetch it again")
    return from_json(Manifest, json.dumps(value))


def _crc(value: Any) -> int:
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())
