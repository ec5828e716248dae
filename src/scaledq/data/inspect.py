"""Is a store whole, and what is in it?"""

from collections.abc import Iterator

import numpy as np
import tensorstore as ts

from scaledq.core.config import config
from scaledq.core.errors import DataError
from scaledq.data import zarr
from scaledq.data.store import ARRAYS, Log, Store


@config
class Block:
    """One file of a store, read and compared with its checksum."""

    log: str
    array: str
    file: str
    """Below the log's folder."""
    start: int
    stop: int
    """Rows start..stop-1."""
    fault: str | None
    """What is wrong with it, in a line; None if it is whole."""

    def __str__(self) -> str:
        rows = f"rows {self.start:,} to {self.stop - 1:,}"
        return f"{self.log}/{self.file} ({self.array}, {rows}): {self.fault or 'whole'}"


def verify(target: Store | Log) -> Iterator[Block]:
    """Only the damaged blocks of `check`."""
    return (block for block in check(target) if block.fault)


def check(target: Store | Log) -> Iterator[Block]:
    """Reads every file of every array and compares checksums; yields as it goes."""
    for log in _logs(target):
        for array in ARRAYS:
            yield from _check_array(log, array)


def blocks(target: Store | Log) -> int:
    """How many blocks `check` will yield for an undamaged store."""
    return sum(len(log.manifest.checksums[name]) for log in _logs(target) for name in ARRAYS)


def _logs(target: Store | Log) -> list[Log]:
    if isinstance(target, Log):
        return [target]
    return [log for task in target.tasks for log in target[task]]


def _check_array(log: Log, name: str) -> Iterator[Block]:
    try:
        array = log.array(name)
    except DataError as error:
        fault = str(error)
        yield _block(log, name, f"{name}/zarr.json", (0, len(log)), fault)
        return
    checksums = log.manifest.checksums[name]
    rows = log.manifest.rows_in_a_file(name)
    spans = [(b * rows, min((b + 1) * rows, len(log))) for b in range(len(checksums))]
    ahead = array[slice(*spans[0])].read()
    for block, span in enumerate(spans):
        reading, after = ahead, spans[block + 1 : block + 2]
        if after:
            ahead = array[slice(*after[0])].read()
        file = f"{name}/{zarr.block_file(array, block)}"
        yield _block(log, name, file, span, _fault(log, name, reading, checksums[block]))


def _fault(log: Log, name: str, reading: "ts.Future[np.ndarray]", checksum: int) -> str | None:
    try:
        values = reading.result()
    except zarr.FAILURES as error:
        return zarr.reason(error)
    if zarr.checksum(values) != checksum:
        return "readable, but not what was written (its checksum differs from the manifest's)"
    return None


def _block(log: Log, array: str, file: str, span: tuple[int, int], fault: str | None) -> Block:
    return Block(log=log.path, array=array, file=file, start=span[0], stop=span[1], fault=fault)
