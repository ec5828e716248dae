"""How one array lies on a disk or in a bucket: a Zarr v3 array, reached through TensorStore.

The first axis of every array is time. An array is stored in blocks of rows, each one file: a shard
of small compressed chunks for frames, a single compressed chunk for a column.
"""

import os
import re
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
RETRIES = {"max_retries": 6, "initial_delay": "500ms", "max_delay": "8s"}
"""Half a minute: TensorStore's own quarter of an hour looks like a hang where a name is wrong."""
CONTEXT = ts.Context(
    {
        "cache_pool": {"total_bytes_limit": 16 << 20},
        **{f"{driver}_request_retries": RETRIES for driver in ("gcs", "http", "s3")},
    }
)
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

    Credentials come from the environment, as usual. Of S3: see `_s3`.

    Raises:
      DataError: a scheme that TensorStore does not serve, or a URL without a bucket or server.
    """
    scheme, separator, rest = str(path).partition("://")
    if not separator or scheme == "file":
        folder = Path(rest if separator else path).expanduser().resolve()
        return {"driver": "file", "path": f"{folder}/"}
    if scheme not in SCHEMES:
        raise DataError(f"no way to reach {path}: {suggest(scheme, SCHEMES)}")
    if scheme == "memory":
        return {"driver": "memory", "path": _folder(rest)}
    url = urlsplit(str(path))
    if not url.netloc:
        raise DataError(f"{path} names no bucket or server; write {scheme}://NAME/folder")
    folder = _folder(url.path)
    if scheme in ("http", "https"):
        return {"driver": "http", "base_url": f"{scheme}://{url.netloc}", "path": f"/{folder}"}
    if scheme == "gs":
        return {"driver": "gcs", "bucket": url.netloc, "path": folder}
    return {"driver": "s3", "bucket": url.netloc, "path": folder, **_s3()}


def _s3() -> dict[str, Any]:
    """What the environment says of S3, in the variables that Amazon's tools and fsspec read.

    AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL: a server other than Amazon's; AWS_REGION;
    AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY, or a profile, or a machine's role;
    FSSPEC_S3_ANON=true: no credentials, for public buckets.
    """
    read, spec = os.environ.get, dict[str, Any]()
    endpoint = read("AWS_ENDPOINT_URL_S3") or read("AWS_ENDPOINT_URL")
    region = read("AWS_REGION") or read("AWS_DEFAULT_REGION")
    if endpoint:
        spec |= {"endpoint": endpoint, "aws_region": region or "us-east-1"}
    elif region:
        spec |= {"aws_region": region}
    if read("FSSPEC_S3_ANON", "").lower() in ("1", "true", "yes"):
        spec |= {"aws_credentials": {"type": "anonymous"}}
    elif read("AWS_ACCESS_KEY_ID"):  # else Amazon's library tries everything, and logs each failure
        spec |= {"aws_credentials": {"type": "environment"}}
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
    """The first and telling line of TensorStore's message, without the answers of servers."""
    return re.split(r" \[[\w-]+='|\n", str(error), maxsplit=1)[0][:400]


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
