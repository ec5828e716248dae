"""Does a store of 400 million transitions open, sample and fit in memory like one of 4 million?

Both stores are made here: 40 games, one log each, with columns that are really written and frames
that are not (Zarr reads missing chunks as zeros), so that it takes a gigabyte of disk, not a
hundred. Batches of the two are timed in turns in one process; what is resident, and how long
opening takes, is asked of a process of its own that trains quickstart's network for some steps.

    python benchmarks/scale.py [--rows 10000000]

Bars: the large store opens in less than 10 s (manifests and all columns), a batch takes at most 1.3
times as long as from the small one, and the training process never has 6 GB resident.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from ingest import peak
from scaledq.core import atari
from scaledq.core.batch import Batch
from scaledq.core.protocol import DQN_REPLAY
from scaledq.core.task import Task
from scaledq.data import zarr
from scaledq.data.loader import Loader
from scaledq.data.manifest import COLUMN_SHARDS, FORMAT, Manifest, Tally, digest, write_manifest
from scaledq.data.store import open_store
from scaledq.data.view import View
from scaledq.data.writer import SHARD
from scaledq.run import assemble
from scaledq.study.scales import QUICK_RUN
from timing import alternate, median, report

TASKS, SMALL, BATCH, BATCHES, REPEATS, STEPS = 40, 100_000, 512, 8, 9, 20
HOLD, EPISODE = 4, 1_000
"""Steps that an action is held, and that an episode lasts, on average."""
BARS = {"open_seconds": 10, "batch_ratio": 1.3, "peak_gigabytes": 6}


def write_log(store: Path, task: Task, rows: int, rng: np.random.Generator) -> None:
    """One log whose frames are zeros that take no disk."""
    place = zarr.below(zarr.location(store), task.name, "run1")
    columns = draw(task, rows, rng)
    shape = (rows, *task.frame_shape)
    zarr.create(zarr.below(place, "frames"), shape, "uint8", block=SHARD, chunk=zarr.CHUNK)
    last = rows % SHARD or SHARD
    whole, rest = (zarr.checksum(np.zeros((k, *task.frame_shape), "uint8")) for k in (SHARD, last))
    checksums: dict[str, tuple[int, ...]] = {"frames": (whole,) * (-(-rows // SHARD) - 1) + (rest,)}
    block = SHARD * COLUMN_SHARDS
    for name, values in columns.items():
        there = zarr.below(place, name)
        array = zarr.create(there, (rows,), values.dtype.name, block=block, chunk=block)
        array.write(values).result()
        starts = range(0, rows, block)
        checksums[name] = tuple(zarr.checksum(values[at : at + block]) for at in starts)
    tally = Tally()
    tally.add(columns["action"], columns["reward"], columns["terminated"] | columns["truncated"])
    manifest = Manifest(
        format=FORMAT,
        task=task,
        name="run1",
        behaviour="drawn",
        protocol=DQN_REPLAY,
        source={},
        versions={},
        counts=tally.counts(),
        shard=SHARD,
        checksums=checksums,
        digest=digest(task, tally.counts(), checksums),
        extra={},
    )
    zarr.open_folder(place).write("zarr.json", write_manifest(manifest)).result()


def draw(task: Task, rows: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Held actions, few rewards, and ends of both kinds, in the columns' own dtypes."""
    ends = rng.random(rows, np.float32) < 1 / EPISODE
    cut = rng.random(rows, np.float32) < 0.1
    reward = rng.integers(-1, 2, rows, np.int8) * (rng.random(rows, np.float32) < 0.05)
    held = rng.integers(0, task.actions, -(-rows // HOLD), np.int16)
    return {
        "action": np.repeat(held, HOLD)[:rows],
        "reward": reward.astype(np.float32),
        "terminated": ends & ~cut,
        "truncated": ends & cut,
    }


def build(store: Path, rows: int) -> Path:
    """A store of TASKS games with so many rows each."""
    rng = np.random.default_rng(0)
    for name in list(atari.games())[:TASKS]:
        write_log(store, atari.task(name), rows, rng)
    return store


def loader(store: Path) -> Loader:
    opened = open_store(store, missing="zeros")
    transitions = QUICK_RUN.transitions
    return Loader(
        [opened], opened.tasks, view=View(), transitions=transitions, batch_size=BATCH, seed=0
    )


def train(store: Path) -> None:
    """Opens the store and trains on it; prints what that took."""
    began = time.perf_counter()
    samples = loader(store)
    opened, columns = time.perf_counter() - began, peak()
    learner = assemble.learner(QUICK_RUN, samples.tasks, device="cpu")
    for batch in samples.stream(0, STEPS):
        assert isinstance(batch, Batch)
        learner.update(batch)
    print(json.dumps({"open_seconds": opened, "columns": columns, "peak": peak()}))


def measure(store: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--train", str(store)]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000, help="of each of the 40 tasks")
    parser.add_argument("--train", type=Path)
    args = parser.parse_args()
    if args.train:
        train(args.train)
        return
    with tempfile.TemporaryDirectory(prefix="scaledq-") as folder:
        stores = {rows: build(Path(folder) / str(rows), rows) for rows in (SMALL, args.rows)}
        runs = [measure(stores[args.rows]) for _ in range(3)]
        loaders = [loader(store) for store in stores.values()]
        steps = iter(range(10**9))
        small, large = alternate(
            *(lambda one=one: [one.batch(next(steps)) for _ in range(BATCHES)] for one in loaders),
            repeats=REPEATS,
        )
        disk = sum(p.stat().st_size for p in stores[args.rows].rglob("*") if p.is_file())
    found = {
        "open_seconds": round(median([run["open_seconds"] for run in runs]), 2),
        "batch_ratio": round(median(large) / median(small), 3),
        "peak_gigabytes": round(max(run["peak"] for run in runs) / 1e9, 2),
    }
    report(
        "scale",
        transitions=args.rows * TASKS,
        **found,
        batch_ms=round(1e3 * median(large) / BATCHES, 1),
        opened_gigabytes=round(max(run["columns"] for run in runs) / 1e9, 2),
        column_bytes_a_row=round(disk / (args.rows * TASKS), 2),
        bars=BARS,
        reached=all(found[name] <= bar for name, bar in BARS.items()),
    )


if __name__ == "__main__":
    main()
