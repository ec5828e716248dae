"""How one array lies on a disk or in a bucket: a Zarr v3 array, reached through TensorStore.

The first axis of every array is time. An array is stored in blocks of rows, each one file: a shard
of small compressed chunks for frames, a single compressed chunk for a column.
"""

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
import tensorstore as ts

from scaledq.core.errors import DataError, suggest

CHUNK = 16
"""Frames that are compressed together: the least that one read decodes."""
CONTEXT = ts.Context({"cache_pool": {"total_bytes_limit": 16 << 20}})
"""Shared by all stores of the process. Random reads hardly ever meet a chunk again: a small cache,
for the shards' indices."""
SCHEMES = ("file", "gs", "s3", "http", "https", "memory")
ZSTD = {"name": "zstd", "configuration": {"level": 3, "checksum": True}}

Place = dict[str, Any]
"""A TensorStore key-value store: its driver, and the folder in it."""
Missing = Literal["error", "zeros"]
"""What a block that is not there means: damage, or (in an array made sparse on purpose) zeros."""


def location(path: str | Path) -> Place:
    """The TensorStore key-value store at a local path or a URL (gs://bucket/..., s3://, http://).

    Credentials come from the environment, as usual; `AWS_ENDPOINT_URL` names an S3 server other
    than Amazon's.

    Raises:
      DataError: a scheme that TensorStore does not serve.
    """
    scheme, separator, rest = str(path).partition("://")
    if not separator or scheme == "file":
        folder = Path(rest if separator else path).expanduser().absolute()
        return {"driver": "file", "path": f"{folder}/"}
    if scheme not in SCHEMES:
        raise DataError(f"no way to reach {path}: {suggest(scheme, SCHEMES)}")
    if scheme == "memory":
        return {"driver": "memory", "path": _folder(rest)}
    url = urlsplit(str(path))
    folder = _folder(url.path)
    if scheme in ("http", "https"):
        return {"driver": "http", "base_url": f"{scheme}://{url.netloc}", "path": f"/{folder}"}
    spec = {"driver": "gcs" if scheme == "gs" else "s3", "bucket": url.netloc, "path": folder}
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    if scheme == "s3" and endpoint:
        spec |= {"endpoint": endpoint, "aws_region": os.environ.get("AWS_REGION", "us-east-1")}
    return spec


def below(place: Place, *names: str) -> Place:
    """The folder that `names` lead to, from the key-value store `place`."""
    return {**place, "path": place["path"] + "".join(f"{name}/" for name in names)}


def open_folder(place: Place) -> ts.KvStore:
    """The key-value store itself, for files that are no arrays."""
    return ts.KvStore.open(place, context=CONTEXT).result()


def create(
    place: Place, shape: tuple[int, ...], dtype: str, *, block: int, chunk: int
) -> ts.TensorStore:
    """A new array of `shape` whose blocks of `block` rows hold chunks of `chunk` rows.

    With `chunk == block` there is no shard around the one chunk.
    """
    whole = [block, *shape[1:]]
    codecs = [{"name": "bytes", "configuration": {"endian": "little"}}, ZSTD]
    if chunk != block:
        index = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
        inner = {"chunk_shape": [chunk, *shape[1:]], "codecs": codecs, "index_codecs": index}
        codecs = [{"name": "sharding_indexed", "configuration": inner}]
    metadata = {
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": whole}},
        "codecs": codecs,
        "fill_value": False if dtype == "bool" else 0,
    }
    spec = _spec(place, "error") | {"metadata": metadata}
    return ts.open(spec, context=CONTEXT, create=True, delete_existing=True).result()


def open_array(place: Place, *, missing: Missing = "error") -> ts.TensorStore:
    """The array that is stored there."""
    return ts.open(_spec(place, missing), context=CONTEXT, open=True).result()


def block_file(array: ts.TensorStore, block: int) -> str:
    """Where in the array's folder its block-th block lies."""
    return "/".join(["c", str(block), *["0"] * (array.rank - 1)])


def checksum(values: np.ndarray) -> int:
    """CRC-32 of the raw little-endian bytes."""
    plain = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return zlib.crc32(plain.data.cast("B"))


FAILURES = (ValueError, OSError, RuntimeError)
"""What TensorStore raises when a disk, a network or a codec lets it down."""


def failure(error: Exception, what: str, advice: str) -> DataError:
    """One line about it that starts with `what`."""
    return DataError(f"{what}: {reason(error)}; {advice}")


def reason(error: Exception) -> str:
    """The first and telling line of TensorStore's message."""
    return str(error).partition(" [tensorstore_spec")[0].partition("\n")[0][:400]


@contextmanager
def naming(what: str, advice: str) -> Iterator[None]:
    """Turns a failure inside the block into one DataError that names `what`."""
    try:
        yield
    except FAILURES as error:
        raise failure(error, what, advice) from error


def _spec(place: Place, missing: Missing) -> dict[str, Any]:
    return {
        "driver": "zarr3",
        "kvstore": place,
        "fill_missing_data_reads": missing == "zeros",
        "store_data_equal_to_fill_value": True,
        "recheck_cached_data": "open",
    }


def _folder(text: str) -> str:
    parts = [part for part in text.split("/") if part]
    return "".join(f"{part}/" for part in parts)
