"""TFRecord files of tf.train.Example messages, without TensorFlow.

A record is its length (uint64), a masked CRC-32C of that, the bytes, and a masked CRC-32C of those
(https://www.tensorflow.org/tutorials/load_data/tfrecord). An Example is a map from names to lists
of bytes, floats or integers; its wire format is protobuf's.
"""

import struct
from collections.abc import Iterator

import google_crc32c
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

from scaledq.core.errors import DataError
from scaledq.data.sources.folder import reading
from scaledq.data.sources.npy import Stream

MAX_RECORD = 1 << 28
"""Bytes; an episode of 27,000 pictures takes a fifth of that."""
MASK = 0xA282EAD8


def records(file: Stream, where: str) -> Iterator[bytes]:
    """The records of an uncompressed stream, in order, each with its checksums compared.

    Raises:
      DataError: a record that is damaged, cut off or absurdly large, with its number.
    """
    number = 0
    while True:
        with reading(f"{where}: record {number}"):
            header = file.read(12)
            if not header:
                return
            _verify(header[:8], header[8:], "length")
            length = int.from_bytes(header[:8], "little")
            if length > MAX_RECORD:
                raise ValueError(f"{length:,} bytes are too many for an episode")
            data, crc = file.read(length), file.read(4)
            if len(data) < length or len(crc) < 4:
                raise ValueError(f"the file ends within its {length:,} bytes")
            _verify(data, crc, "data")
        yield data
        number += 1


def _verify(data: bytes, crc: bytes, what: str) -> None:
    plain = google_crc32c.value(data)
    masked = ((plain >> 15 | plain << 17) + MASK) & 0xFFFFFFFF
    if crc != struct.pack("<I", masked):
        raise ValueError(f"the checksum of its {what} does not match")


class Example:
    """One tf.train.Example: lists of values by name; every error starts with `where`."""

    def __init__(self, data: bytes, where: str):
        self.where = where
        with reading(where):
            self._features = _MESSAGE.FromString(data).features.feature  # pyright: ignore[reportAttributeAccessIssue]

    def strings(self, name: str) -> list[bytes]:
        """The feature's bytes values."""
        return list(self._values(name, "bytes_list"))

    def floats(self, name: str) -> np.ndarray:
        """The feature's values, float32 [k]."""
        return np.array(self._values(name, "float_list"), np.float32)

    def integers(self, name: str) -> np.ndarray:
        """The feature's values, int64 [k]."""
        return np.array(self._values(name, "int64_list"), np.int64)

    def integer(self, name: str) -> int:
        """The feature's only value."""
        values = self.integers(name)
        if len(values) != 1:
            raise DataError(f"{self.where}: {len(values)} values of {name!r} instead of one")
        return int(values[0])

    def _values(self, name: str, kind: str):
        if name not in self._features:
            has = ", ".join(sorted(str(key)[:40] for key in self._features)[:12]) or "nothing"
            raise DataError(f"{self.where}: no feature {name!r}; it has {has}")
        feature = self._features[name]
        if feature.WhichOneof("kind") != kind:
            raise DataError(
                f"{self.where}: feature {name!r} is {feature.WhichOneof('kind')}, not {kind}"
            )
        return getattr(feature, kind).value


def _message() -> type[Message]:
    """The class of tf.train.Example, from the fields that its public definition lists."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="x", syntax="proto3")
    kinds = {"bytes": field.TYPE_BYTES, "float": field.TYPE_FLOAT, "int64": field.TYPE_INT64}
    for kind, scalar in kinds.items():
        values = file.message_type.add(name=f"{kind}_list")
        values.field.add(name="value", number=1, label=field.LABEL_REPEATED, type=scalar)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, kind in enumerate(kinds, 1):
        feature.field.add(
            name=f"{kind}_list",
            number=number,
            label=field.LABEL_OPTIONAL,
            type=field.TYPE_MESSAGE,
            type_name=f".x.{kind}_list",
            oneof_index=0,
        )
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry", options={"map_entry": True})
    entry.field.add(name="key", number=1, label=field.LABEL_OPTIONAL, type=field.TYPE_STRING)
    _nested(entry, "value", 2, ".x.Feature", field.LABEL_OPTIONAL)
    _nested(features, "feature", 1, ".x.Features.FeatureEntry", field.LABEL_REPEATED)
    example = file.message_type.add(name="Example")
    _nested(example, "features", 1, ".x.Features", field.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("x.Example"))


def _nested(
    message: descriptor_pb2.DescriptorProto, name: str, number: int, type_name: str, label: int
) -> None:
    kind = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
    message.field.add(name=name, number=number, label=label, type=kind, type_name=type_name)  # pyright: ignore[reportArgumentType]


_MESSAGE = _message()
