"""Decisions a second of `scaledq serve` under concurrent clients, and ONNX against eager PyTorch.

    python benchmarks/serve.py              the quick scale's network
    python benchmarks/serve.py --depth 34   the paper's ResNet-34

Bars: 64 clients on 2 cores get at least 5 times the decisions of one-at-a-time PyTorch; ONNX is no
slower than eager PyTorch. Each client sends one observation (84x84, stack of 4) as bytes, waits for
the action, and asks again. One-at-a-time PyTorch is measured twice: without HTTP, as a bare loop in
this process; and served: the same server with batches of one row. The clients share the server's
cores. Weights are untrained: they take as long as any.
"""

import argparse
import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from scaledq.core.task import Task
from scaledq.nets.resnet import ResNetConfig
from scaledq.play.policy import NetPolicy
from scaledq.run import assemble
from scaledq.run.checkpoint import save_weights
from scaledq.run.export import export
from scaledq.run.folder import WEIGHTS, Run, open_run, surroundings, write_run
from scaledq.run.policies import load_policy
from scaledq.study.scales import QUICK_RUN
from timing import alternate, median, report

TASKS = tuple(Task(name=name, actions=n) for name, n in (("Freeway", 3), ("RoadRunner", 18)))
OBS = np.random.default_rng(0).integers(256, size=(64, 4, 84, 84), dtype=np.uint8)


@dataclass
class Load:
    """What a crowd of clients got from a server."""

    decisions: float
    """A second."""
    milliseconds: list[float]
    """Latency of each answer."""

    def percentile(self, share: float) -> float:
        return round(float(np.percentile(self.milliseconds, share)), 1)


def untrained(place: Path, depth: int) -> Run:
    """A finished run's folder that no training made."""
    cfg = replace(QUICK_RUN, tasks=tuple(task.name for task in TASKS))
    if depth != 8:
        cfg = replace(cfg, encoder=ResNetConfig(depth=depth))  # pyright: ignore[reportArgumentType]
    run = Run(place / cfg.folder, cfg, TASKS, {"parameters": 0, **surroundings()})
    write_run(run)
    save_weights(run.folder / WEIGHTS, assemble.network(cfg, TASKS).state_dict(), {})
    return open_run(run.folder)


@contextmanager
def serving(policy: Path, *options: str) -> Iterator[int]:
    """A server in a process of its own; its port."""
    command = [sys.executable, "-m", "scaledq", "serve", str(policy), "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    said = process.stderr.readline()
    found = re.search(r":(\d+)$", said.strip())
    assert found, said
    try:
        yield int(found.group(1))
    finally:
        process.terminate()
        process.communicate()


async def client(port: int, stop: float, taken: list[float]) -> None:
    """Asks about one row after the other until it is time to stop."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = OBS[0].tobytes()
    head = "POST /v1/tasks/Freeway/actions HTTP/1.1\r\nhost: x\r\n"
    head += f"content-type: application/octet-stream\r\ncontent-length: {len(body)}\r\n\r\n"
    request = head.encode() + body
    while (began := time.perf_counter()) < stop:
        writer.write(request)
        answer = await reader.readuntil(b"]}")
        assert answer.startswith(b"HTTP/1.1 200"), answer
        taken.append(1e3 * (time.perf_counter() - began))
    writer.close()


async def crowd(port: int, clients: int, seconds: float) -> Load:
    taken: list[float] = []
    stop = time.perf_counter() + seconds
    await asyncio.gather(*(client(port, stop, taken) for _ in range(clients)))
    return Load(len(taken) / seconds, taken)


def loaded(policy: Path, *options: str, clients: int, seconds: float) -> Load:
    """A server under load, after a second of warming up."""
    with serving(policy, *options) as port:
        asyncio.run(crowd(port, clients, 1.0))
        return asyncio.run(crowd(port, clients, seconds))


def passes(policy: NetPolicy, rows: int) -> Callable[[], object]:
    heads = np.zeros(rows, np.int64)
    return lambda: policy.values(OBS[:rows], heads)


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--depth", type=int, default=8)
    asked.add_argument("--clients", type=int, default=64)
    asked.add_argument("--seconds", type=float, default=6.0)
    asked.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    given = asked.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        run = untrained(Path(folder), given.depth)
        onnx = export(run, Path(folder) / "policy.onnx")
        eager, fast = run.policy(), load_policy(onnx)
        assert isinstance(eager, NetPolicy)
        assert isinstance(fast, NetPolicy)
        ratios, single = {}, 0.0
        for rows in (1, 8, 64):
            repeats = max(5, 200 // rows)
            a, b = alternate(passes(eager, rows), passes(fast, rows), repeats=repeats)
            ratios[f"batch_{rows}"] = round(median(a) / median(b), 2)
            single = single or 1 / median(a)
        crowded = {"clients": given.clients, "seconds": given.seconds}
        batched = loaded(onnx, **crowded)
        batched_eager = loaded(run.folder, **crowded)
        one = loaded(run.folder, "--max-batch", "1", "--max-queue", "4096", **crowded)
    report(
        "serve",
        network=f"resnet {given.depth}, {sum(p.numel() for p in run.network.parameters()):,}",
        clients=given.clients,
        threads=given.threads,
        onnx_over_eager=ratios,
        decisions_per_s={
            "onnx, batched": round(batched.decisions),
            "eager, batched": round(batched_eager.decisions),
            "eager, one at a time, served": round(one.decisions),
            "eager, one at a time, bare loop": round(single),
        },
        over_one_at_a_time_served=round(batched.decisions / one.decisions, 2),
        over_one_at_a_time_bare=round(batched.decisions / single, 2),
        p50_ms=batched.percentile(50),
        p99_ms=batched.percentile(99),
    )


if __name__ == "__main__":
    main()
