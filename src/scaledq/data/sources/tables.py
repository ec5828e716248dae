"""Files of columns, .npz and .parquet, as blocks of rows; the observations are never held whole."""

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from scaledq.core.errors import DataError, suggest
from scaledq.data.sources.folder import Folder
from scaledq.data.sources.npy import PORTION_BYTES, Npy

WIDE = "observation"
SUFFIXES = (".npz", ".parquet")
PARQUET_ROWS = 1024

Block = dict[str, np.ndarray]
"""Columns by name, [k] each, `observation` [k ...]."""


def names(folder: Folder, file: str) -> tuple[str, ...]:
    """The columns of one file, in order."""
    with _opened(folder, file) as table:
        return tuple(table.columns)


def blocks(folder: Folder, file: str, columns: Sequence[str]) -> Iterator[Block]:
    """The rows of one file, in order, a block at a time.

    Raises:
      DataError: a damaged file, a column that is not there, of no plain numbers, or as long as
        none of the others; the message starts with the file.
    """
    with _opened(folder, file) as table:
        for name in columns:
            if name not in table.columns:
                raise DataError(
                    f"{folder / file}: no column {name!r}; {suggest(name, table.columns)}"
                )
        yield from table.blocks(columns)


@contextmanager
def _opened(folder: Folder, file: str) -> "Iterator[_Npz | _Parquet]":
    with folder.open(file) as raw:
        if file.endswith(".npz"):
            with zipfile.ZipFile(raw) as packed:
                yield _Npz(packed, str(folder / file))
        else:
            yield _Parquet(raw, str(folder / file))


class _Npz:
    """Reads the short columns whole, and the wide one as a stream."""

    def __init__(self, packed: zipfile.ZipFile, where: str):
        members = [name for name in packed.namelist() if name.endswith(".npy")]
        self.columns = [name.removesuffix(".npy") for name in members]
        self._packed, self._where = packed, where

    def blocks(self, columns: Sequence[str]) -> Iterator[Block]:
        short = {name: self._whole(name) for name in columns if name != WIDE}
        lengths = {name: len(values) for name, values in short.items()}
        with ExitStack() as held:
            wide = None
            if WIDE in columns:
                member = held.enter_context(self._packed.open(f"{WIDE}.npy"))
                wide = Npy(member, self._place(WIDE))
                lengths[WIDE] = len(wide)
            if len(set(lengths.values())) > 1:
                shown = ", ".join(f"{name} {n}" for name, n in lengths.items())
                raise DataError(f"{self._where}: columns of different lengths: {shown}")
            rows = next(iter(lengths.values()))
            step = wide.portion if wide else max(rows, 1)
            for start in range(0, rows, step):
                part = slice(start, min(start + step, rows))
                block = {name: values[part] for name, values in short.items()}
                if wide:
                    block[WIDE] = wide.read(part.stop - start)
                yield block
            if wide:
                wide.finish()

    def _whole(self, name: str) -> np.ndarray:
        with self._packed.open(f"{name}.npy") as file:
            values = Npy(file, self._place(name)).whole()
        if values.ndim != 1:
            raise DataError(f"{self._place(name)}: should be one value a row, is {values.shape}")
        return values

    def _place(self, name: str) -> str:
        return f"{self._where}: column {name!r}"


class _Parquet:
    """Reads row groups a batch at a time."""

    def __init__(self, raw: Any, where: str):
        try:
            import pyarrow.parquet as parquet
        except ImportError as error:
            raise DataError(f"{where}: needs pyarrow; pip install 'scaledq[parquet]'") from error
        self._file = parquet.ParquetFile(
            raw,
            page_checksum_verification=True,
            pre_buffer=False,
            thrift_string_size_limit=1 << 24,
            thrift_container_size_limit=1 << 20,
        )
        self.columns = list(self._file.schema_arrow.names)
        self._where = where

    def blocks(self, columns: Sequence[str]) -> Iterator[Block]:
        first = 0
        for batch in self._file.iter_batches(batch_size=PARQUET_ROWS, columns=list(columns)):
            block = {}
            for name in columns:
                values = batch.column(batch.schema.get_field_index(name))
                block[name] = self._plain(name, values, first)
            first += len(batch)
            yield from _portions(block)

    def _plain(self, name: str, values: Any, first: int) -> np.ndarray:
        """An Arrow array as a NumPy array of its own shape."""
        import pyarrow as pa

        shape: tuple[int, ...] = ()
        while not (pa.types.is_primitive(values.type) or pa.types.is_string(values.type)):
            if values.null_count:
                break
            if isinstance(values.type, pa.FixedShapeTensorType):
                return values.to_numpy_ndarray()
            shape += (self._width(name, values, first),)
            values = values.flatten()
        if values.null_count:
            row = first + int(values.is_null().to_numpy(zero_copy_only=False).argmax())
            within = f" (about row {first})" if shape else f" {row}"
            raise DataError(f"{self._where}: column {name!r}: row{within} has no value")
        plain = values.to_numpy(zero_copy_only=False)
        return plain.reshape(-1, *shape) if shape else plain

    def _width(self, name: str, values: Any, first: int) -> int:
        """How many values each row of a list column has."""
        import pyarrow as pa

        kind = values.type
        if pa.types.is_fixed_size_list(kind):
            return kind.list_size
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
            raise DataError(
                f"{self._where}: column {name!r}: numbers, or lists of them, are read; not {kind}"
            )
        widths = values.value_lengths().to_numpy(zero_copy_only=False)
        if len(widths) and (widths != widths[0]).any():
            row = int((widths != widths[0]).argmax())
            raise DataError(
                f"{self._where}: column {name!r}: row {first + row} has {widths[row]} values, "
                f"row {first} has {widths[0]}; all need the same shape"
            )
        return int(widths[0]) if len(widths) else 0


def _portions(block: Block) -> Iterator[Block]:
    """A block in parts whose observations are no larger than what a reader wants at a time."""
    rows = len(next(iter(block.values())))
    size = block[WIDE].nbytes if WIDE in block else 0
    step = max(1, rows * PORTION_BYTES // max(size, PORTION_BYTES))
    for start in range(0, rows, step):
        yield {name: values[start : start + step] for name, values in block.items()}
