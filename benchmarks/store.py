"""Disk and speed of the store on real Atari frames: bytes a frame, samples read, frames written.

Bars: at most 200 bytes a frame on average; at least 15,000 random 7-frame samples/s in batches of
512 on two cores.
"""

import tempfile
from pathlib import Path

import numpy as np

from atari_logs import HARD, OTHERS, collect
from scaledq.data.inspect import summary
from scaledq.data.loader import Loader, Transitions
from scaledq.data.store import Store
from scaledq.data.view import View
from scaledq.data.writer import LogWriter
from timing import alternate, median, report

ROWS, BATCH, BATCHES, REPEATS = 8_192, 512, 8, 9


def loader(store: Store) -> Loader:
    """Batches of 512 samples of 4 + 3 frames, over all tasks."""
    return Loader(
        [store],
        store.tasks,
        view=View(),
        transitions=Transitions(stack=4, n_step=3),
        batch_size=BATCH,
        seed=0,
    )


def write_again(folder: str, store: Store) -> int:
    """Writes one log of every task once more and returns how many frames that were."""
    rows = 0
    for task in store.tasks:
        log = store[task][0]
        arrays = [log.read(name) for name in ("frames", "action", "reward")]
        ends = [log.read(name) for name in ("terminated", "truncated")]
        with tempfile.TemporaryDirectory(dir=folder) as place:
            about = log.manifest
            writer = LogWriter(
                place,
                log.task,
                "again",
                behaviour=about.behaviour,
                protocol=about.protocol,
                source=about.source,
                versions=about.versions,
            )
            writer.append(*arrays, *ends)
            rows += writer.finish().counts.rows
    return rows


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="scaledq-") as folder:
        store = collect(Path(folder) / "store", HARD + OTHERS, rows=ROWS)
        samples = loader(store)
        steps = iter(range(10**9))
        read, written = alternate(
            lambda: [samples.batch(next(steps)) for _ in range(BATCHES)],
            lambda: write_again(folder, store),
            repeats=REPEATS,
        )
        sizes = {s.task: s.bytes_a_frame or 0.0 for s in summary(store)}
        report(
            "store",
            bytes_a_frame={task: round(size) for task, size in sizes.items()},
            bytes_a_frame_mean=round(float(np.mean(list(sizes.values())))),
            bytes_a_frame_quickstart=round(float(np.mean([sizes[task] for task in HARD]))),
            samples_per_s=round(BATCH * BATCHES / median(read)),
            best_samples_per_s=round(BATCH * BATCHES / min(read)),
            frames_written_per_s=round(write_again(folder, store) / median(written)),
        )


if __name__ == "__main__":
    main()
