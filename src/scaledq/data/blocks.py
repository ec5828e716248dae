"""One array on its way to disk: the last block of rows in memory, the others in files."""

import numpy as np
import tensorstore as ts

from scaledq.data import zarr


class Blocks:
    """Appends to a Zarr array a whole block (file) at a time; `checksums` has one for each."""

    def __init__(self, array: ts.TensorStore, block: int):
        self.rows = 0
        self.checksums: list[int] = []
        self._array, self._block = array, block
        self._buffer = np.empty((block, *array.shape[1:]), array.dtype.numpy_dtype)
        self._pending: ts.WriteFutures | None = None

    def append(self, values: np.ndarray) -> None:
        """Adds rows [k ...]; returns when they are copied, while a full block is being written."""
        start = 0
        while start < len(values):
            at = self.rows % self._block
            part = values[start : start + self._block - at]
            self._buffer[at : at + len(part)] = part
            self.rows += len(part)
            start += len(part)
            if self.rows % self._block == 0:
                self._write()

    def flush(self) -> None:
        """Returns when every row is on disk, the unfinished block included."""
        if self.rows % self._block:
            self._write()
        self._wait()

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows start..stop-1, which a flush has put on disk: [stop - start ...]."""
        self._wait()
        return self._array[start:stop].read().result()

    def keep(self, rows: int) -> None:
        """Goes on after the first `rows` rows of an array that an earlier writer left."""
        for start in range(0, rows, self._block):
            values = self._array[start : min(start + self._block, rows)].read().result()
            self._buffer[: len(values)] = values
            if len(values) == self._block:
                self.checksums.append(zarr.checksum(values))
        self.rows = rows
        self._resize()

    def _write(self) -> None:
        """Writes the block that the last row lies in, over what a flush may have left of it."""
        block = (self.rows - 1) // self._block
        start = block * self._block
        values = self._buffer[: self.rows - start]
        self.checksums[block:] = [zarr.checksum(values)]
        self._wait()
        self._resize()
        self._pending = self._array[start : self.rows].write(values)
        self._pending.copy.result()

    def _resize(self) -> None:
        shape = [self.rows, *self._array.shape[1:]]
        self._array = self._array.resize(exclusive_max=shape).result()

    def _wait(self) -> None:
        if self._pending is not None:
            self._pending.commit.result()
            self._pending = None
