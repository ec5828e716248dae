"""RL Unplugged's files for tests, encoded byte by byte from the formats' descriptions.

CRC-32C bit by bit, protobuf's wire format and TFRecord's framing, sharing nothing with the reader.
"""

import gzip
import io
import struct
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image


@cache
def _table() -> tuple[int, ...]:
    entries = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        entries.append(byte)
    return tuple(entries)


def masked_crc32c(data: bytes) -> bytes:
    crc, table = 0xFFFFFFFF, _table()
    for byte in data:
        crc = table[(crc ^ byte) & 255] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)


def record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + masked_crc32c(length) + data + masked_crc32c(data)


def varint(value: int) -> bytes:
    value %= 2**64
    out = []
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def feature(values: list | np.ndarray) -> bytes:
    """A tf.train.Feature: bytes_list is field 1, float_list 2, int64_list 3; numbers are packed."""
    if len(values) and isinstance(values[0], bytes):
        return field(1, b"".join(field(1, value) for value in values))
    values = np.asarray(values)
    if values.dtype.kind == "f":
        return field(2, field(1, values.astype("<f4").tobytes()))
    return field(3, field(1, b"".join(varint(int(value)) for value in values)))


def example(features: dict[str, list | np.ndarray]) -> bytes:
    entries = [field(1, name.encode()) + field(2, feature(v)) for name, v in features.items()]
    return field(1, b"".join(field(1, entry) for entry in entries))


def png(frame: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG")
    return buffer.getvalue()


def episode(rng: np.random.Generator, number: int, length: int, *, cut: bool = False) -> dict:
    """One episode's features, and its frames [T H W] beside them."""
    frames = np.zeros((length, 84, 84), np.uint8)
    frames[:, :3] = rng.integers(0, 256, (length, 3, 84))
    rewards = rng.integers(-20, 200, length).astype(np.float32)
    discounts = np.ones(length, np.float32)
    discounts[-1] = 1 if cut else 0
    features = {
        "checkpoint_idx": [number // 3],
        "episode_idx": [number],
        "episode_return": np.array([rewards.sum()]),
        "clipped_episode_return": np.array([np.sign(rewards).sum()]),
        "observations": [png(frame) for frame in frames],
        "actions": rng.integers(0, 4, length),
        "unclipped_rewards": rewards,
        "clipped_rewards": np.sign(rewards),
        "discounts": discounts,
    }
    return {"features": features, "frames": frames, "cut": cut}


def write_shard(path: Path, episodes: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wb") as file:
        for one in episodes:
            file.write(record(example(one["features"])))
