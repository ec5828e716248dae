"""Do two processes with a thread each train as fast as one process with two threads?

    OMP_NUM_THREADS=2 python benchmarks/ranks.py     bar: at least 0.85 of it, on two idle cores

The quick scale's network, random pictures, at its own batch and at four times that: what is
exchanged is the same 10 MB of gradients, whatever the batch. Both kinds of process live all the
time and take turns, so that a noisy neighbour hits both.
"""

import argparse
import multiprocessing as mp
import os
import socket
import time
from dataclasses import fields, replace
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor

from scaledq.core.batch import Batch
from scaledq.core.task import Task
from scaledq.run import assemble
from scaledq.run.parallel import Ranks, joined
from scaledq.study.bench import random_batch
from scaledq.study.scales import QUICK_RUN
from timing import median, report

STEPS, REPEATS, LARGER = 8, 9, 4


def part(batch: Batch, ranks: Ranks) -> Batch:
    tensors = {f.name: getattr(batch, f.name) for f in fields(batch)}
    mine = {k: v[ranks.rank :: ranks.world] for k, v in tensors.items() if isinstance(v, Tensor)}
    return replace(batch, **mine)


def work(pipe: Connection, threads: int, env: dict[str, str]) -> None:
    """Steps on request, and says how long they took."""
    os.environ.update(env)
    torch.set_num_threads(threads)
    tasks = tuple(Task(name=name, actions=18) for name in QUICK_RUN.tasks)
    with joined("cpu") as ranks:
        learner = assemble.learner(QUICK_RUN, tasks, device="cpu", ranks=ranks)
        sizes = (QUICK_RUN.batch_size, LARGER * QUICK_RUN.batch_size)
        batches = {
            size: part(random_batch(replace(QUICK_RUN, batch_size=size), tasks), ranks)
            for size in sizes
        }
        while (order := pipe.recv()) is not None:
            size, steps = order
            began = time.perf_counter()
            for _ in range(steps):
                learner.update(batches[size])
            ranks.at(learner.step, "computing")
            pipe.send(time.perf_counter() - began)


def started(threads: int, world: int) -> list[Connection]:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = str(place.getsockname()[1])
    pipes = []
    for rank in range(world):
        env = {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1"}
        ours, theirs = mp.get_context("spawn").Pipe()
        arguments = (theirs, threads, env | {"MASTER_PORT": port} if world > 1 else {})
        mp.get_context("spawn").Process(target=work, args=arguments, daemon=True).start()
        pipes.append(ours)
    return pipes


def taken(pipes: list[Connection], size: int, steps: int = STEPS) -> float:
    """Seconds of the slowest."""
    for pipe in pipes:
        pipe.send((size, steps))
    return max(pipe.recv() for pipe in pipes)


def compared(crews: dict[str, list[Connection]], size: int, *, repeats: int) -> dict[str, float]:
    one, two = crews["one"], crews["two"]
    for crew in (one, two):
        taken(crew, size, 2)
    pairs = [(taken(one, size), taken(two, size)) for _ in range(repeats)]
    return {
        "ratio": round(median([one / two for one, two in pairs]), 3),
        "one_process_step_ms": round(1e3 * median([one for one, _ in pairs]) / STEPS, 1),
        "two_processes_step_ms": round(1e3 * median([two for _, two in pairs]) / STEPS, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=REPEATS)
    options = parser.parse_args()
    crews = {"one": started(2, 1), "two": started(1, 2)}
    sizes = (QUICK_RUN.batch_size, LARGER * QUICK_RUN.batch_size)
    found = {f"batch {size}": compared(crews, size, repeats=options.repeats) for size in sizes}
    for crew in crews.values():
        for pipe in crew:
            pipe.send(None)
    load = float(Path("/proc/loadavg").read_text().split()[0])
    report("ranks", **found, cores=len(os.sched_getaffinity(0)), load=load)


if __name__ == "__main__":
    main()
