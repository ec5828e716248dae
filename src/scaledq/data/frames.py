"""How many frames wait in memory to be drawn again: as they are, or each one compressed.

Shapes: P places, k of which are filled or asked for at a time.
"""

from typing import Literal

import numpy as np
import zstandard

from scaledq.core.errors import ConfigError

LEVEL = 1
"""Of zstd: a frame is compressed once and read about eight times, so both have to be quick."""
Kind = Literal["plain", "zstd"]


class Plain:
    """P places for a frame; memory is taken as they are filled. What is read from a place that
    never was means nothing."""

    def __init__(self, places: int, shape: tuple[int, ...], dtype: str) -> None:
        self._frames = np.zeros((places, *shape), dtype)

    def put(self, places: np.ndarray, frames: np.ndarray) -> None:
        """Fills places [k] with frames [k *frame]."""
        self._frames[places] = frames

    def take(self, places: np.ndarray) -> np.ndarray:
        """Frames [k *frame] of places [k], a copy."""
        return self._frames.take(places, axis=0)


class Compressed:
    """The same in a fraction of the memory, at some microseconds a frame."""

    def __init__(self, places: int, shape: tuple[int, ...], dtype: str) -> None:
        self._shape, self._dtype = shape, np.dtype(dtype)
        self._size = int(np.prod(shape)) * self._dtype.itemsize
        blank = zstandard.compress(bytes(self._size), LEVEL)
        self._packed = [blank] * places
        self._writer = zstandard.ZstdCompressor(level=LEVEL)
        self._reader = zstandard.ZstdDecompressor()

    def put(self, places: np.ndarray, frames: np.ndarray) -> None:
        """As Plain."""
        pack = self._writer.compress
        for place, frame in zip(places.tolist(), np.ascontiguousarray(frames), strict=True):
            self._packed[place] = pack(frame)

    def take(self, places: np.ndarray) -> np.ndarray:
        """As Plain."""
        unpack, packed = self._reader.decompress, self._packed
        raw = b"".join([unpack(packed[place], self._size) for place in places.tolist()])
        return np.frombuffer(bytearray(raw), self._dtype).reshape(-1, *self._shape)


Frames = Plain | Compressed


def reserve(kind: Kind, places: int, shape: tuple[int, ...], dtype: str) -> Frames:
    """Room for that many frames.

    Raises:
      ConfigError: it is more than this machine lets a process have.
    """
    try:
        return Plain(places, shape, dtype) if kind == "plain" else Compressed(places, shape, dtype)
    except MemoryError as error:
        size = places * np.dtype(dtype).itemsize * int(np.prod(shape)) / 2**30
        raise ConfigError(
            f"ring.capacity: {places:,} frames of {dtype} {list(shape)} take {size:,.1f} GiB, more "
            "than there is; lower it, or set ring.frames to zstd"
        ) from error
