"""One array in NumPy's .npy format, read from a stream in portions and never unpickled.

The format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

import re
import struct
from contextlib import AbstractContextManager
from math import prod
from typing import Protocol, runtime_checkable

import numpy as np

from scaledq.core.errors import DataError
from scaledq.data.sources.folder import reading

MAX_ROWS = 1 << 32
MAX_ROW_BYTES = 64 << 20
"""Of one row: a 4096x4096 picture of 4 bytes a pixel."""
MAX_COLUMN_BYTES = 1 << 28
"""Of an array that `whole` reads."""
PORTION_BYTES = 8 << 20
HEADER = re.compile(
    r"\{'descr': ?'([<>|=][biuf][1248])', ?'fortran_order': ?(False|True), ?"
    r"'shape': ?\(((?:\d{1,18}L?, ?){0,8}(?:\d{1,18}L?)?)\),? ?\} *\n?"
)


@runtime_checkable
class Stream(Protocol):
    """Bytes in order: a file, whatever it is packed in."""

    def read(self, size: int = ..., /) -> bytes: ...


class Npy:
    """An array on its way out of `file`: `dtype`, `shape`, and its rows in order.

    Raises:
      DataError: no .npy file, or an array that is pickled, structured, transposed or absurdly
        large; the message starts with `where`.
    """

    def __init__(self, file: Stream, where: str):
        self.where = where
        self._file = file
        with self.reading():
            self.dtype, self.shape = self._header()
        self.rows_read = 0
        self._row = self.dtype.itemsize * prod(self.shape[1:])
        if len(self) > MAX_ROWS or self._row > MAX_ROW_BYTES:
            raise DataError(f"{where}: an array of shape {self.shape} is no log; fetch it again")

    def __len__(self) -> int:
        return self.shape[0] if self.shape else 1

    @property
    def portion(self) -> int:
        """Rows that are worth reading at a time."""
        return max(1, PORTION_BYTES // max(self._row, 1))

    def reading(self) -> AbstractContextManager[None]:
        return reading(self.where)

    def read(self, rows: int) -> np.ndarray:
        """The next `rows` rows, [rows, ...] in the machine's byte order.

        Raises:
          DataError: the file ends before.
        """
        shape = (rows, *self.shape[1:])
        values = np.empty(shape, self.dtype)
        with self.reading():
            got = self._fill(values.reshape(-1).view(np.uint8).data)
        if got != values.nbytes:
            raise DataError(
                f"{self.where}: it ends in row {self.rows_read + got // max(self._row, 1)} of "
                f"{len(self)}; fetch it again"
            )
        self.rows_read += rows
        return values.astype(self.dtype.newbyteorder("="), copy=False)

    def whole(self) -> np.ndarray:
        """All of a small array, and `finish`."""
        if len(self) * self._row > MAX_COLUMN_BYTES:
            raise DataError(
                f"{self.where}: a column of shape {self.shape} is no log's; fetch it again"
            )
        values = self.read(len(self)).reshape(self.shape)
        self.finish()
        return values

    def finish(self) -> None:
        """Reads what is left, so that a compressed file's checksum is compared, too.

        Raises:
          DataError: the file ends before the array does, or goes on after it.
        """
        while self.rows_read < len(self):
            self.read(min(self.portion, len(self) - self.rows_read))
        with self.reading():
            more = self._file.read(1)
        if more:
            raise DataError(f"{self.where}: it goes on after its {len(self)} rows; fetch it again")

    def _header(self) -> tuple[np.dtype, tuple[int, ...]]:
        magic = self._file.read(8)
        if magic[:6] != b"\x93NUMPY" or magic[6:7] not in (b"\1", b"\2", b"\3"):
            raise DataError(f"{self.where}: no .npy array is in it; fetch it again")
        wide = magic[6] > 1
        size = struct.unpack("<I" if wide else "<H", self._file.read(4 if wide else 2))[0]
        text = self._file.read(size).decode("latin1") if size <= 4096 else ""
        found = HEADER.fullmatch(text)
        if not found or (found[2] == "True" and found[3].count(",") > 1):
            raise DataError(
                f"{self.where}: its header is not that of a plain array of numbers: "
                f"{text[:120]!r}; pickled, structured and transposed arrays are not read"
            )
        shape = tuple(int(n) for n in re.findall(r"\d+", found[3]))
        return np.dtype(found[1]), shape

    def _fill(self, view: memoryview) -> int:
        """Bytes read: less than the view holds only where the file ends."""
        at = 0
        while at < len(view):
            part = self._file.read(min(len(view) - at, 1 << 20))
            if not part:
                break
            view[at : at + len(part)] = part
            at += len(part)
        return at
