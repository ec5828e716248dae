"""The same real frames in seven formats: bytes a frame, random samples a second, resident memory.

Quickstart's recording of three games (each random action held for a while) is laid down in every
format; then each is read in a process of its own, in turns: batches of 512 samples of 7 consecutive
frames at random places. All processes must return the same bytes. Everything is in the system's
page cache.

    python benchmarks/formats.py [--steps 16384] [--write]     needs scaledq[minari,benchmarks]

--write puts the table between the markers in docs/store.md.
"""

import argparse
import gzip
import multiprocessing as mp
import os
import platform
import re
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from scaledq.core.protocol import QUICK
from scaledq.data.store import Store, open_store
from timing import report

GAMES = ("Freeway", "Seaquest", "RoadRunner")
FRAMES, BATCH, BATCHES, ROUNDS, CHUNK = 7, 512, 4, 9, 16
DOCS = Path(__file__).parents[1] / "docs" / "store.md"
BEGIN, END = "<!-- benchmarks/formats.py: begin -->", "<!-- benchmarks/formats.py: end -->"

Read = Callable[[np.ndarray, np.ndarray], list[np.ndarray]]
"""(log [B], first row [B]) -> B arrays [FRAMES 84 84]"""


def names(folder: Path, suffix: str) -> list[Path]:
    return sorted(folder.glob(f"*{suffix}"))


class Ours:
    """This store."""

    name = "scaledq (Zarr, shards of 16-frame zstd chunks)"

    def write(self, folder: Path, logs: list[np.ndarray]) -> None:
        """The store was there first: it is what `collect` wrote."""

    def open(self, folder: Path) -> Read:
        logs = in_order(open_store(folder))

        def read(log: np.ndarray, row: np.ndarray) -> list[np.ndarray]:
            spans = zip(log.tolist(), row.tolist(), strict=True)
            futures = [logs[number].frames[at : at + FRAMES].read() for number, at in spans]
            return [future.result() for future in futures]

        return read


class Memmap:
    """TorchRL's way: raw bytes, mapped."""

    name = "raw memory map (TorchRL's way)"

    def write(self, folder: Path, logs: list[np.ndarray]) -> None:
        for number, frames in enumerate(logs):
            np.save(folder / f"{number:03}.npy", frames)

    def open(self, folder: Path) -> Read:
        return by_slices([np.load(path, mmap_mode="r") for path in names(folder, ".npy")])


class Hdf5:
    """One array a log, in the chunks that h5py chooses: what Minari's writer asks for."""

    name = "HDF5 (Minari's way: chunks, not compressed)"
    options: dict[str, object] = {"chunks": True}  # noqa: RUF012

    def write(self, folder: Path, logs: list[np.ndarray]) -> None:
        import h5py

        with h5py.File(folder / "main_data.hdf5", "w") as file:
            for number, frames in enumerate(logs):
                file.create_dataset(f"{number:03}", data=frames, **self.options)

    def open(self, folder: Path) -> Read:
        import h5py

        file = h5py.File(folder / "main_data.hdf5", "r")
        return by_slices([file[name] for name in sorted(file)])


class Hdf5Gzip(Hdf5):
    """The same, compressed in our own chunks."""

    name = "HDF5, gzip chunks of 16 frames"
    options = {"chunks": (CHUNK, 84, 84), "compression": "gzip"}  # noqa: RUF012


class GzipStream:
    """Dopamine's way: a file is one stream, so a reader keeps all of it unpacked in memory."""

    name = "one gzip stream, unpacked in memory (Dopamine's way)"

    def write(self, folder: Path, logs: list[np.ndarray]) -> None:
        for number, frames in enumerate(logs):
            with gzip.open(folder / f"{number:03}.gz", "wb", compresslevel=6) as file:
                np.save(file, frames)

    def open(self, folder: Path) -> Read:
        arrays = []
        for path in names(folder, ".gz"):
            with gzip.open(path) as file:
                arrays.append(np.load(file))
        return by_slices(arrays)


class ArrayRecord:
    """Grain's way: each frame a record, 16 records compressed together."""

    name = "ArrayRecord, groups of 16 frames, zstd"

    def write(self, folder: Path, logs: list[np.ndarray]) -> None:
        from array_record.python.array_record_module import (  # pyright: ignore[reportMissingImports]
            ArrayRecordWriter,
        )

        writer = ArrayRecordWriter(str(folder / "frames.array_record"), "group_size:16,zstd:3")
        for frames in logs:
            for frame in frames:
                writer.write(frame.tobytes())
        writer.close()
        np.save(folder / "starts.npy", np.cumsum([0, *map(len, logs)]))

    def open(self, folder: Path) -> Read:
        from array_record.python.array_record_module import (  # pyright: ignore[reportMissingImports]
            ArrayRecordReader,
        )

        starts = np.load(folder / "starts.npy")
        reader = ArrayRecordReader(
            str(folder / "frames.array_record"), "readahead_buffer_size:0,max_parallelism:1"
        )

        def read(log: np.ndarray, row: np.ndarray) -> list[np.ndarray]:
            rows = (starts[log] + row)[:, None] + np.arange(FRAMES)
            found = np.frombuffer(b"".join(reader.read(rows.ravel().tolist())), np.uint8)
            return list(found.reshape(len(log), FRAMES, 84, 84))

        return read


class OneRecordEach(ArrayRecord):
    """The same with every frame compressed by itself."""

    name = "ArrayRecord, each frame by itself, zstd"

    def write(self, folder: Path, logs: list[np.ndarray]) -> None:
        from array_record.python.array_record_module import (  # pyright: ignore[reportMissingImports]
            ArrayRecordWriter,
        )

        writer = ArrayRecordWriter(str(folder / "frames.array_record"), "group_size:1,zstd:3")
        for frames in logs:
            for frame in frames:
                writer.write(frame.tobytes())
        writer.close()
        np.save(folder / "starts.npy", np.cumsum([0, *map(len, logs)]))


FORMATS = (Ours, Memmap, Hdf5, Hdf5Gzip, GzipStream, ArrayRecord, OneRecordEach)


def by_slices(arrays: list) -> Read:
    def read(log: np.ndarray, row: np.ndarray) -> list[np.ndarray]:
        spans = zip(log.tolist(), row.tolist(), strict=True)
        return [np.array(arrays[number][at : at + FRAMES]) for number, at in spans]

    return read


def in_order(store: Store) -> list:
    return [log for task in store.tasks for log in store[task]]


def places(lengths: list[int], batch: int) -> tuple[np.ndarray, np.ndarray]:
    """The samples of one batch: the same for every format."""
    rng = np.random.default_rng(batch)
    log = rng.integers(0, len(lengths), BATCH)
    return log, (rng.random(BATCH) * (np.array(lengths)[log] - FRAMES)).astype(np.int64)


def resident() -> dict[str, int]:
    """Bytes of this process in memory: its own, and those mapped from files."""
    text = Path("/proc/self/status").read_text()
    found = {k: int(v) * 1024 for k, v in re.findall(r"Rss(Anon|File):\s+(\d+) kB", text)}
    return {"own": found["Anon"], "mapped": found["File"]}


def serve(number: int, folder: Path, lengths: list[int], line: Connection) -> None:
    """A reader in a process of its own: times BATCHES batches whenever it is asked to."""
    before = resident()
    read = FORMATS[number]().open(folder)
    for first in iter(line.recv, None):
        crc, taken = 0, np.zeros(2)
        for batch in range(first, first + BATCHES):
            where = places(lengths, batch)
            began = np.array([time.perf_counter(), time.process_time()])
            samples = read(*where)
            taken += np.array([time.perf_counter(), time.process_time()]) - began
            for sample in samples:
                crc = zlib.crc32(np.ascontiguousarray(sample).data, crc)
            del samples
        after = resident()
        line.send((taken, crc, {name: after[name] - before[name] for name in after}))


def lay(root: Path, steps: int) -> tuple[list[Path], list[int]]:
    """Records, and writes every format; returns their folders and the lengths of the logs."""
    from scaledq.run.collect import CollectConfig, collect

    folders = [root / str(number) for number in range(len(FORMATS))]
    collect(CollectConfig(tasks=GAMES, steps=steps, slots=1, protocol=QUICK), folders[0])
    logs = [log.read("frames") for log in in_order(open_store(folders[0]))]
    for folder, kind in zip(folders, FORMATS, strict=True):
        folder.mkdir(exist_ok=True)
        kind().write(folder, logs)
    return folders, [len(frames) for frames in logs]


def readers(folders: list[Path], lengths: list[int], held: ExitStack) -> Iterator[Connection]:
    context = mp.get_context("spawn")
    for number, folder in enumerate(folders):
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(number, folder, lengths, theirs), daemon=True)
        process.start()
        held.callback(process.join)
        held.callback(ours.send, None)
        yield ours


def size(folder: Path) -> int:
    """Bytes of a format's files; of a store, only what frames take."""
    files = [p for p in folder.rglob("*") if p.is_file()]
    frames = [p for p in files if "frames" in p.parts[:-1]] or files
    return sum(path.stat().st_size for path in frames)


def measure(steps: int) -> tuple[int, list[dict[str, float]]]:
    """The number of frames, and a row for each format."""
    with tempfile.TemporaryDirectory(prefix="scaledq-") as folder, ExitStack() as held:
        folders, lengths = lay(Path(folder), steps)
        lines = list(readers(folders, lengths, held))
        taken: list[list[np.ndarray]] = [[] for _ in FORMATS]
        memory: list[dict[str, int]] = [{} for _ in FORMATS]
        for turn in range(ROUNDS + 1):
            crcs = set()
            for number, line in enumerate(lines):
                line.send(turn * BATCHES)
                seconds, crc, memory[number] = line.recv()
                taken[number] += [seconds] if turn else []  # the first turn warms up
                crcs.add(crc)
            assert len(crcs) == 1, "the formats returned different frames"
        rows = []
        for number, kind in enumerate(FORMATS):
            wall, cpu = np.median(taken[number], axis=0).tolist()
            rows.append(
                {
                    "format": kind.name,
                    "bytes_a_frame": size(folders[number]) / sum(lengths),
                    "samples_per_s": BATCH * BATCHES / wall,
                    "samples_per_core_s": BATCH * BATCHES / cpu,
                    "megabytes": memory[number]["own"] / 1e6,
                    "mapped_megabytes": memory[number]["mapped"] / 1e6,
                }
            )
    return sum(lengths), rows


def hardware() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


def table(frames: int, rows: list[dict]) -> str:
    about = (
        f"{frames:,} frames of {', '.join(GAMES)}, {BATCH} samples of {FRAMES} frames a batch, "
        f"median of {ROUNDS} turns, {os.cpu_count()} cores ({hardware()}), one thread that "
        "asks, and those that a library starts. A sample counts for each second of a core that "
        "was at work; memory is what opening and reading added to the process."
    )
    lines = [
        about,
        "",
        "| format | bytes a frame | samples/s | for each core | MB held | MB mapped |",
    ]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for row in rows:
        numbers = list(row.values())[1:]
        lines.append(f"| {row['format']} | " + " | ".join(f"{n:,.0f}" for n in numbers) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=16_384, help="of each game")
    parser.add_argument("--write", action="store_true", help="the table, into docs/store.md")
    args = parser.parse_args()
    frames, rows = measure(args.steps)
    if args.write:
        text = DOCS.read_text()
        before, after = text[: text.index(BEGIN)], text[text.index(END) :]
        DOCS.write_text(f"{before}{BEGIN}\n{table(frames, rows)}\n{after}")
    shown = [{k: v if isinstance(v, str) else round(v, 1) for k, v in row.items()} for row in rows]
    report("formats", frames=frames, cores=os.cpu_count(), formats=shown)


if __name__ == "__main__":
    main()
