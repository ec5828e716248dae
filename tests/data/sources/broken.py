"""Whole files of every source format, and what can be done to them.

Each class writes its files below a folder and then, for each `variant`, does something to them that
is drawn from `rng`; `restore` takes it back, and `says` is what an independent reader of the format
finds in the files as they are.
"""

import gzip
import io
import pickle
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import h5py
import minari
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import unplugged
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

from scaledq.core.protocol import Protocol
from scaledq.core.task import Task
from scaledq.data.sources.action_log import ActionLog, Ended, Episode, Header
from scaledq.data.sources.arrays import Arrays
from scaledq.data.sources.dqn_replay import DQNReplay
from scaledq.data.sources.minari import Minari
from scaledq.data.sources.replay_files import part
from scaledq.data.sources.rl_unplugged import RLUnplugged
from scaledq.data.sources.synthetic import Layout, toy_episodes, write_dqn_replay

Columns = dict[str, np.ndarray]


def damage(data: bytes, rng: np.random.Generator) -> bytes:
    """One of the things that happen to files."""
    at, out = int(rng.integers(len(data))), bytearray(data)
    match int(rng.integers(6)):
        case 0:
            return data[:at]
        case 1 | 2:
            for place in rng.integers(len(data), size=int(rng.integers(1, 4))):
                out[place] ^= 1 << int(rng.integers(8))
        case 3:
            out[at : at + int(rng.integers(1, 64))] = rng.bytes(int(rng.integers(1, 64)))
        case 4:
            out[at:at] = out[max(0, at - 100) : at + 100]
        case _:
            big = struct.pack("<q", int(rng.choice([-1, 2**31 - 1, 2**62])))
            out[at : at + 8] = big[: len(out[at : at + 8])]
    return bytes(out)


def zip_members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return {name: file.read(name) for name in file.namelist()}


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return buffer.getvalue()


class Trap:
    """Unpickled, it fails the test."""

    def __reduce__(self):
        return (pytest.fail, ("code in a data file was run",))


def npy(header: str, body: bytes = b"") -> bytes:
    text = header.encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


def hostile_npy() -> Iterator[bytes]:
    """Arrays that no log has."""
    for shape in ("(1000000000000,)", "(3, 99999999999)", "(0,)", "()", "(-1,)", "(1,)*9", "(1,"):
        for kind in ("<i8", "|O", "<f4", "|u1", "<U8", ">f2", "|V8", "M8[s]"):
            yield npy(
                f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}", b"\0" * 64
            )
    yield npy("{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (2,), }", b"\0" * 8)
    yield npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", pickle.dumps([Trap()]))
    yield npy("__import__('os').abort()")
    yield npy("(" * 4000)
    yield pickle.dumps(Trap())
    yield npy("{'descr': '|u1', 'fortran_order': False, 'shape': (4000000000,), }", bytes(10**6))
    for values in (np.zeros(3), np.zeros((2, 2), int), np.asfortranarray(np.zeros((2, 3)))):
        buffer = io.BytesIO()
        np.save(buffer, values)
        yield buffer.getvalue()


class DqnReplay:
    """Two files of 16 rows."""

    def __init__(self, root: Path):
        self.root, self.folder = root, root / "Breakout" / "1" / "replay_logs"
        episodes = toy_episodes(np.random.default_rng(0), lengths=[9, 12, 7], actions=4)
        write_dqn_replay(self.folder, episodes, Layout(capacity=16))
        names = ("observation", "action", "reward", "terminal", "add_count")
        self.paths = [self.folder / part(name, n) for name in names for n in range(2)]
        self.whole = {path: path.read_bytes() for path in self.paths}
        self.hostile = list(hostile_npy())

    def variant(self, rng: np.random.Generator) -> None:
        path = self.paths[int(rng.integers(len(self.paths)))]
        inside = gzip.decompress(self.whole[path])
        match int(rng.integers(4)):
            case 0:
                path.write_bytes(damage(self.whole[path], rng))
            case 1:
                path.write_bytes(gzip.compress(damage(inside, rng), 1))
            case 2:
                path.write_bytes(gzip.compress(self.hostile[int(rng.integers(len(self.hostile)))]))
            case _:
                other = self.paths[int(rng.integers(len(self.paths)))]
                path.write_bytes(self.whole[other] if other != path else gzip.compress(b""))

    def restore(self) -> None:
        for path, data in self.whole.items():
            path.write_bytes(data)

    def source(self):
        return DQNReplay(source=str(self.root))

    def says(self) -> Columns:
        names = ("observation", "action", "reward", "terminal", "add_count")
        files = [[self.load(self.folder / part(name, n)) for name in names] for n in range(2)]
        return slow_replay(files)

    def load(self, path: Path) -> np.ndarray:
        return np.load(io.BytesIO(gzip.decompress(path.read_bytes())), allow_pickle=False)


def slow_replay(files: list[list[np.ndarray]]) -> Columns:
    """The rules about DQN-Replay's files, a row at a time."""
    counts, capacity = [int(file[4].reshape(-1)[0]) for file in files], len(files[0][0])
    if counts[1] == capacity - 1 <= counts[0]:
        files = files[:1]  # a last file that repeats the one before
    files = [file for file in files if int(file[4].reshape(-1)[0]) % capacity]
    rows: list[tuple] = []
    steps = None
    for number, (frames, action, reward, terminal, count) in enumerate(files):
        zero = [
            not (frames[r].any() or action[r] or reward[r] or terminal[r]) for r in range(capacity)
        ]
        own = int(count.reshape(-1)[0]) % capacity
        black = next((r for r in range(min(3, own)) if not zero[r]), min(3, own))
        near = number > 0 and int(count.reshape(-1)[0]) - counts[number - 1] == capacity
        if near and steps is not None:
            may_drop = min(black, 2) if steps == 0 else 3 * (black == 3)
        else:
            may_drop = black
            steps = None
        for row in range(own):
            if may_drop and zero[row]:
                may_drop, steps = may_drop - 1, 0
                continue
            end = bool(terminal[row])
            joint = row == own - 1 and number < len(files) - 1 and not end
            rows.append((frames[row], action[row], reward[row], end, joint))
            may_drop = 3 if end else 0
            steps = 0 if end else (None if steps is None else steps + 1)
    names = ("frames", "action", "reward", "terminated", "truncated")
    return {name: np.array(v) for name, v in zip(names, zip(*rows, strict=True), strict=True)}


class Unplugged:
    """One file of three episodes."""

    def __init__(self, root: Path):
        self.root = root
        rng = np.random.default_rng(0)
        self.episodes = [unplugged.episode(rng, n, 5 + n) for n in range(3)]
        self.path = root / "Breakout" / "run_1-00000-of-00001"
        unplugged.write_shard(self.path, self.episodes)
        self.whole = self.path.read_bytes()
        self.examples = [unplugged.example(one["features"]) for one in self.episodes]

    def variant(self, rng: np.random.Generator) -> None:
        match int(rng.integers(4)):
            case 0:
                self.path.write_bytes(damage(self.whole, rng))
            case 1:
                self.path.write_bytes(gzip.compress(damage(gzip.decompress(self.whole), rng), 1))
            case _:  # the checksums are right, the message is not
                number = int(rng.integers(3))
                broken = list(self.examples)
                broken[number] = damage(broken[number], rng)
                self.path.write_bytes(gzip.compress(b"".join(map(unplugged.record, broken)), 1))

    def restore(self) -> None:
        self.path.write_bytes(self.whole)

    def source(self):
        return RLUnplugged(source=str(self.root))

    def says(self) -> Columns:
        """Only the packing may have changed; what a changed message means is told elsewhere."""
        if gzip.decompress(self.path.read_bytes()) != gzip.decompress(self.whole):
            return {}
        action = np.concatenate([[*e["features"]["actions"][:-1], -1] for e in self.episodes])
        return {"action": action, "frames": np.concatenate([e["frames"] for e in self.episodes])}


def table() -> Columns:
    rng = np.random.default_rng(0)
    return {
        "observation": rng.integers(0, 256, (30, 4), np.uint8),
        "action": rng.integers(0, 4, 30),
        "reward": rng.integers(0, 3, 30).astype(np.float32),
        "terminated": np.arange(30) % 10 == 9,
        "truncated": np.arange(30) == 14,
    }


class Npz:
    """One file of 30 rows."""

    def __init__(self, root: Path):
        self.path = root / "shop.npz"
        np.savez_compressed(self.path, **table())  # pyright: ignore[reportArgumentType]
        self.whole = self.path.read_bytes()
        self.hostile = list(hostile_npy())

    def variant(self, rng: np.random.Generator) -> None:
        members = zip_members(self.whole)
        name = list(members)[int(rng.integers(len(members)))]
        match int(rng.integers(4)):
            case 0:
                self.path.write_bytes(damage(self.whole, rng))
            case 1:
                self.path.write_bytes(zipped(members | {name: damage(members[name], rng)}))
            case 2:
                evil = self.hostile[int(rng.integers(len(self.hostile)))]
                self.path.write_bytes(zipped(members | {name: evil}))
            case _:
                renamed = {f"../../{k}" if k == name else k: v for k, v in members.items()}
                self.path.write_bytes(zipped(renamed))

    def restore(self) -> None:
        self.path.write_bytes(self.whole)

    def source(self):
        return Arrays(source=str(self.path))

    def says(self) -> Columns:
        with np.load(self.path, allow_pickle=False) as file:
            return renamed({name: file[name] for name in table() if name in file.files})


class Parquet:
    """One file of 30 rows in two row groups."""

    def __init__(self, root: Path):
        self.path = root / "shop.parquet"
        cells = pa.FixedSizeListArray.from_arrays(pa.array(table()["observation"].ravel()), 4)
        self.table = pa.table({**table(), "observation": cells})
        pq.write_table(self.table, self.path, row_group_size=16, write_page_checksum=True)
        self.whole = self.path.read_bytes()

    def variant(self, rng: np.random.Generator) -> None:
        if rng.integers(4):
            self.path.write_bytes(damage(self.whole, rng))
            return
        columns: dict = {name: self.table[name] for name in self.table.column_names}
        name = list(columns)[int(rng.integers(len(columns)))]
        kinds = [
            pa.array(["text"] * 30),
            pa.array([None] * 30, pa.int64()),
            pa.array([[1], [1, 2], []] * 10),
            pa.array([2**62] * 30),
            pa.array([pickle.dumps(Trap())] * 30),
            pa.array([{"a": 1}] * 30),
            pa.array([np.nan] * 30),
            pa.array([0] * 30, pa.timestamp("s")),
            None,
        ]
        kind = kinds[int(rng.integers(len(kinds)))]
        changed = columns | {name: kind} if kind is not None else columns | {f"../{name}": 1}
        changed = {k: v for k, v in changed.items() if k != name or kind is not None}
        if kind is None:
            changed[f"../{name}"] = columns[name]
        pq.write_table(pa.table(changed), self.path)

    def restore(self) -> None:
        self.path.write_bytes(self.whole)

    def source(self):
        return Arrays(source=str(self.path))

    def says(self) -> Columns:
        read = pq.read_table(self.path)
        columns = {k: read[k].to_pylist() for k in table() if k in read.column_names}
        return renamed({name: np.array(values) for name, values in columns.items()})


def renamed(columns: Columns) -> Columns:
    frames = columns["observation"]
    wide = frames.reshape(len(frames), -1)
    return {"frames": wide} | {k: v for k, v in columns.items() if k != "observation"}


def write_minari(root: Path, data_format: str) -> None:
    """One dataset of three episodes."""
    space, actions = gym.spaces.Box(0, 255, (4,), np.uint8), gym.spaces.Discrete(4)
    storage = MinariStorage.new(root, space, actions, jpeg_encoding=False, data_format=data_format)
    storage.update_metadata({"dataset_id": "x-v0", "minari_version": minari.__version__})
    rng = np.random.default_rng(0)
    for length in (3, 6, 4):
        last = np.arange(length) == length - 1
        episode = EpisodeBuffer(
            observations=list(rng.integers(0, 256, (length + 1, 4), np.uint8)),
            actions=list(rng.integers(0, 4, length)),
            rewards=list(rng.integers(0, 9, length).astype(float)),
            terminations=list(last),
            truncations=list(last & False),
        )
        storage.update_episodes([episode])


class MinariFiles:
    """A Minari dataset; three in ten variants are of its metadata."""

    def __init__(self, root: Path, data_format: str):
        self.root = root
        write_minari(root, data_format)
        files = sorted(path for path in root.rglob("*") if path.is_file())
        self.metadata = [path for path in files if path.suffix == ".json"]
        self.data = [path for path in files if path.suffix != ".json"]
        self.whole = {path: path.read_bytes() for path in files}

    def variant(self, rng: np.random.Generator) -> None:
        paths = self.metadata if rng.random() < 0.3 else self.data
        path = paths[int(rng.integers(len(paths)))]
        path.write_bytes(damage(self.whole[path], rng))

    def restore(self) -> None:
        for path, data in self.whole.items():
            path.write_bytes(data)

    def source(self):
        return Minari(source=str(self.root))


class Hdf5(MinariFiles):
    """Minari's first format."""

    def __init__(self, root: Path):
        super().__init__(root, "hdf5")

    def says(self) -> Columns:
        columns: dict[str, list] = {"frames": [], "action": [], "reward": []}
        with h5py.File(self.root / "main_data.hdf5") as file:
            for number in range(len(file)):
                group = file[f"episode_{number}"]
                assert isinstance(group, h5py.Group)
                columns["frames"].append(np.asarray(group["observations"]))
                columns["action"].append(np.append(np.asarray(group["actions"]), -1))
                columns["reward"].append(np.append(np.asarray(group["rewards"]), 0))
        found = {name: np.concatenate(values) for name, values in columns.items()}
        return found | {"reward": found["reward"].astype(np.float32)}


class Arrow(MinariFiles):
    """Minari's other format: a folder of Arrow files for each episode."""

    def __init__(self, root: Path):
        super().__init__(root, "arrow")

    def says(self) -> Columns:
        columns: dict[str, list] = {"frames": [], "action": [], "reward": []}
        for number in range(3):
            folder = self.root / str(number)
            (file,) = (path for path in folder.iterdir() if path.suffix != ".json")
            table = pa.ipc.open_file(file.read_bytes()).read_all()
            columns["frames"].append(np.array(table["observations"].to_pylist()))
            columns["action"].append(np.append(table["actions"].to_pylist()[:-1], -1))
            columns["reward"].append(np.append(table["rewards"].to_pylist()[:-1], 0))
        found = {name: np.concatenate(values) for name, values in columns.items()}
        return found | {"reward": found["reward"].astype(np.float32)}


class ActionLogFile:
    """One action log of two episodes."""

    def __init__(self, root: Path):
        self.path = root / "actions.npz"
        header = Header(
            task=Task(name="T", actions=4, frame_shape=(2,)),
            name="log",
            behaviour="random",
            protocol=Protocol(name="short"),
            source={"seed": "0"},
            versions={"ale-py": "1"},
        )
        rng = np.random.default_rng(0)
        episodes = (
            Episode(7, Ended.TERMINATED, 2**63 + 5, rng.integers(0, 4, 30)),
            Episode(8, Ended.CUT, 3, rng.integers(0, 4, 20)),
        )
        log = ActionLog(header, episodes)
        log.save(self.path)
        self.whole = self.path.read_bytes()
        self.hostile = list(hostile_npy())

    variant = Npz.variant
    restore = Npz.restore

    def says(self) -> Columns:
        with np.load(self.path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files if "/" not in name}
