"""How close to its limit a GPU takes the paper's training step, and where the time goes.

    PYTHONPATH=src python benchmarks/gpu_step.py > gpu_step.json      (about five minutes, one GPU)
    PYTHONPATH=src python benchmarks/gpu_step.py --small              (any machine: does it run?)

ResNet-101, 40 tasks, batch 512: the step in every number format, beside a bare PyTorch loop of the
same mathematics; model FLOP utilisation; the five largest kernels; whether a step makes the host
wait; and the share of a training step that waits for its batch from a real store. Operations are
counted, not estimated (study/cost.py). Bars: bf16 and compiled at most 18 ms and at least 3 times
eager float32, waiting below 3 %, no host sync.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

import bare
from scaledq.core.task import Task
from scaledq.data.loader import Loader
from scaledq.data.view import View
from scaledq.learn.learner import Learner
from scaledq.run import assemble
from scaledq.run.compute import Compute, feed
from scaledq.run.config import RunConfig
from scaledq.run.folder import hardware
from scaledq.study.bench import random_batch, reading
from scaledq.study.cost import cost
from scaledq.study.scales import PAPER, SMOKE_RUN
from timing import median, report

PEAKS = {"H100": 989.0, "H200": 989.0, "A100": 312.0, "L40S": 362.0}
"""Nominal dense bf16 TFLOP/s by name; `--peak` says it for others."""
FORMATS = {
    "float32": Compute(),
    "tf32": Compute(precision="tf32"),
    "bf16": Compute(precision="bf16"),
    "bf16 channels-last": Compute(precision="bf16", channels_last=True),
    "bf16 channels-last compiled": Compute(precision="bf16", channels_last=True, compile=True),
}
BEST = "bf16 channels-last compiled"
DEVICE = assemble.device()


def wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def step_seconds(step: Callable[[], object], *, steps: int) -> float:
    """The median of single steps; warm-up and compilation do not count."""
    for _ in range(3):
        step()
    wait()
    times = []
    for _ in range(steps):
        began = time.perf_counter()
        step()
        wait()
        times.append(time.perf_counter() - began)
    return median(times)


def made(cfg: RunConfig, compute: Compute) -> tuple[Learner, Any]:
    tasks = tuple(Task(name=name, actions=18) for name in cfg.tasks)
    learner = assemble.learner(replace(cfg, compute=compute), tasks, device=DEVICE)
    return learner, random_batch(cfg, tasks).to(DEVICE)


def formats(cfg: RunConfig, *, steps: int, peak: float) -> Iterator[tuple[str, dict[str, Any]]]:
    tasks = tuple(Task(name=name, actions=18) for name in cfg.tasks)
    operations = cost(cfg, tasks).operations / cfg.steps
    for name, compute in FORMATS.items():
        try:
            learner, batch = made(cfg, compute)
            seconds = step_seconds(partial(learner.update, batch), steps=steps)
        except torch.OutOfMemoryError:
            yield name, {"out_of_memory": True}
            continue
        numbers: dict[str, Any] = {
            "step_ms": round(1e3 * seconds, 3),
            "transitions_per_s": round(cfg.batch_size / seconds),
            "tflops": round(operations / seconds / 1e12, 3),
        }
        if peak:
            numbers["mfu"] = round(operations / seconds / 1e12 / peak, 4)
        if DEVICE == "cuda":
            numbers["memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
            torch.cuda.reset_peak_memory_stats()
        yield name, numbers
        del learner, batch


def bare_step(cfg: RunConfig, *, steps: int) -> float:
    """Milliseconds of the same mathematics in plain eager PyTorch, float32."""
    tasks = tuple(Task(name=name, actions=18) for name in cfg.tasks)
    batch = random_batch(cfg, tasks).to(DEVICE)
    net = assemble.network(cfg, tasks).to(DEVICE)
    loop = bare.Loop(net, cfg.optim, batch, bare.c51)
    return round(1e3 * step_seconds(loop.step, steps=steps), 3)


def kernels(learner: Learner, batch: Any) -> list[dict[str, Any]]:
    """The five that take most of three steps."""
    on_gpu = DEVICE == "cuda"
    kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_gpu else [])
    with profile(activities=kinds) as profiled:
        for _ in range(3):
            learner.update(batch)
        wait()
    what = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    events = sorted(profiled.key_averages(), key=lambda e: -getattr(e, what))
    total = sum(getattr(event, what) for event in events) or 1
    return [
        {"name": e.key[:80], "share": round(getattr(e, what) / total, 4), "calls": e.count // 3}
        for e in events[:5]
    ]


def host_waits(learner: Learner, batch: Any) -> bool | None:
    """Whether a step waits for the device; PyTorch raises at the first place that does."""
    if DEVICE != "cuda":
        return None
    torch.cuda.set_sync_debug_mode("error")
    try:
        learner.update(batch)
    except RuntimeError:
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False


def waiting(learner: Learner, cfg: RunConfig, *, alone: float, steps: int) -> dict[str, float]:
    """Training from a store, as `train` does it, against `alone`, seconds of a step without one.

    The host runs ahead of a GPU, so that its own waiting says nothing: what counts is by how much
    steps are longer.
    """
    with reading("") as store:
        loader = Loader(
            [store],
            store.tasks,
            view=View(),
            transitions=cfg.transitions,
            batch_size=cfg.batch_size,
            seed=0,
            pinned=DEVICE == "cuda",
        )
        began = time.perf_counter()
        for number, batch in enumerate(feed(loader.stream(0, steps + 5), DEVICE)):
            if number == 5:
                wait()
                began = time.perf_counter()
            learner.update(batch)
        wait()
        taken = (time.perf_counter() - began) / steps
    return {"loader_wait": round(max(0.0, 1 - alone / taken), 4), "step_ms": round(1e3 * taken, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="a tiny network, to see that it runs")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--peak", type=float, default=0.0, help="bf16 TFLOP/s of the device")
    options = parser.parse_args()
    cfg = SMOKE_RUN if options.small else replace(PAPER.run, batch_size=options.batch_size)
    steps = 2 if options.small else options.steps
    known = next((peak for name, peak in PEAKS.items() if name in hardware()), 0.0)
    found = dict(formats(cfg, steps=steps, peak=options.peak or known))
    learner, batch = made(cfg, FORMATS[BEST])
    alone = step_seconds(partial(learner.update, batch), steps=steps)
    fast, slow = (found[name].get("step_ms") for name in (BEST, "float32"))
    report(
        "gpu_step",
        hardware=hardware(),
        torch=torch.__version__,
        batch_size=cfg.batch_size,
        formats=found,
        compiled_bf16_over_eager_float32=round(slow / fast, 2) if slow and fast else None,
        bare_float32_step_ms=bare_step(cfg, steps=steps),
        largest_kernels=kernels(learner, batch),
        host_waits=host_waits(learner, batch),
        training=waiting(learner, cfg, alone=alone, steps=5 * steps),
    )


if __name__ == "__main__":
    main()
