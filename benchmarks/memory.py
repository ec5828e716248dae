"""Does a training process grow? Its resident memory over 20,000 steps of a small run.

    python benchmarks/memory.py       bar: a slope within twice its own standard error, or below
                                      1 MB in 10,000 steps

Checkpoints, health and the journal are written as in any run. The first quarter does not count: it
holds what is allocated once.
"""

import argparse
import os
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from scaledq.core.seeds import stream
from scaledq.core.task import Task
from scaledq.data.loader import Transitions
from scaledq.data.writer import LogWriter
from scaledq.nets.head import NeckConfig
from scaledq.nets.mlp import MLPConfig
from scaledq.run.config import RunConfig
from scaledq.run.folder import METRICS
from scaledq.run.train import train
from timing import report

PAGE = os.sysconf("SC_PAGE_SIZE")


def write_store(folder: Path, rows: int = 20_000) -> None:
    rng = stream(0, "memory")
    about = {"behaviour": "random", "protocol": None, "source": {}, "versions": {}}
    with LogWriter(folder, Task(name="only", actions=4, frame_shape=(32,)), "log", **about) as log:
        log.append(
            rng.integers(256, size=(rows, 32), dtype=np.uint8),
            rng.integers(4, size=rows).astype(np.int16),
            rng.normal(size=rows).astype(np.float32),
            np.arange(1, rows + 1) % 50 == 0,
            np.zeros(rows, bool),
        )
        log.finish()


def watch(journal: Path, samples: list[tuple[int, float]], stop: threading.Event) -> None:
    """(step, resident megabytes), twice a second; the step is the last that was logged."""
    while not stop.wait(0.5):
        step = journal.read_text().count("\n") if journal.exists() else 0
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
        samples.append((step * 100, resident / 1e6))


def slope(samples: list[tuple[int, float]]) -> tuple[float, float]:
    """Megabytes in 10,000 steps, and the standard error of that."""
    step, resident = np.array(samples).T
    x = step - step.mean()
    found = (x @ resident) / (x @ x)
    left = resident - resident.mean() - found * x
    error = np.sqrt((left @ left) / (len(x) - 2) / (x @ x))
    return float(1e4 * found), float(1e4 * error)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=20_000)
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory(prefix="scaledq-") as folder:
        write_store(Path(folder) / "store")
        cfg = RunConfig(
            tasks=("only",),
            stores=(f"{folder}/store",),
            encoder=MLPConfig(),
            neck=NeckConfig(embedding="none", width=32),
            transitions=Transitions(stack=2),
            batch_size=16,
            steps=steps,
            checkpoint_every=500,
        )
        samples: list[tuple[int, float]] = []
        stop = threading.Event()
        out = Path(folder) / "runs"
        thread = threading.Thread(target=watch, args=(out / cfg.folder / METRICS, samples, stop))
        thread.start()
        began = time.monotonic()
        train(cfg, out)
        stop.set()
        thread.join()
    counted = [(step, resident) for step, resident in samples if step >= steps / 4]
    growth, error = slope(counted)
    report(
        "memory",
        steps=steps,
        megabytes_in_10000_steps=round(growth, 3),
        standard_error=round(error, 3),
        resident_mb=round(counted[-1][1], 1),
        samples=len(counted),
        seconds=round(time.monotonic() - began, 1),
    )


if __name__ == "__main__":
    main()
