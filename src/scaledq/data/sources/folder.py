"""Where a source's files are: a folder on a disk, a web server or in a bucket, through fsspec."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO
from urllib.parse import unquote

import fsspec

from scaledq.core.errors import DataError, ScaledQError

READAHEAD = 4 << 20
"""Bytes that a remote file is asked for at a time."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A place that holds files and folders: a local path, http(s)://, s3://, gs://, memory://."""

    path: str

    def __truediv__(self, name: str) -> "Folder":
        return Folder(f"{self.path.rstrip('/')}/{name}")

    def __str__(self) -> str:
        return self.path

    def names(self) -> tuple[str, ...]:
        """What lies in it, files and folders, sorted.

        Raises:
          DataError: nothing is there, or it cannot be listed (a web server needs its index on).
        """
        with reading(f"cannot list {self}", "check the path and the connection"):
            system, path = filesystem(self.path)
            found = system.ls(path, detail=False)
        names = {unquote(str(name).rstrip("/").rpartition("/")[2]) for name in found}
        return tuple(sorted(name for name in names if name and not name.startswith("?")))

    def is_file(self) -> bool:
        """Whether this is no folder but one file."""
        with reading(f"cannot look at {self}", "check the path and the connection"):
            system, path = filesystem(self.path)
            return bool(system.isfile(path))

    @contextmanager
    def open(self, name: str = "") -> Iterator[BinaryIO]:
        """A file in it (or itself), to be read; whatever fails meanwhile is a DataError.

        Raises:
          DataError: no such file, or the reason why it could not be read, naming it.
        """
        where = self / name if name else self
        with reading(str(where)):
            system, path = filesystem(where.path)
            with system.open(path, "rb", block_size=READAHEAD) as file:
                yield file


def filesystem(url: str) -> tuple[Any, str]:
    """fsspec's file system of a path or URL, and the path in it.

    Raises:
      DataError: what serves that kind of URL is not installed.
    """
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise DataError(f"{url}: {error}; pip install 'scaledq[http,remote]'") from error


@contextmanager
def reading(what: str, advice: str = "fetch it again") -> Iterator[None]:
    """Turns whatever goes wrong with foreign bytes into one DataError that starts with `what`.

    Decoders and remote file systems raise classes of their own, so it takes every Exception.
    """
    try:
        yield
    except ScaledQError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{what}: no such file; check the path") from error
    except Exception as error:
        reason = str(error).partition("\n")[0][:300] or type(error).__name__
        raise DataError(f"{what}: {reason}; {advice}") from error
