"""A training step of ours against the same mathematics in a bare PyTorch loop, on this machine.

    python benchmarks/train_step.py              the quick scale's step; bar: 0.95 of the bare loop
    python benchmarks/train_step.py --table      every objective and encoder, transitions/s
    python benchmarks/train_step.py --d3rlpy     Nature network, batch 32, against d3rlpy's
                                                 DiscreteCQL where it is installed; bar: 1.8 times
    python benchmarks/train_step.py --heads      share of heads, masks and C51's projection in a
                                                 ResNet-34 step over 40 tasks; bar: at most 0.1

All times are medians of interleaved repeats in one process, on the first GPU if there is one.
Where others use the CPU too, `OMP_NUM_THREADS=1 ... --clock cpu` counts the process's own time.
Before it is timed, each bare loss is compared with ours on the same network and batch.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

import bare
from scaledq.core.batch import Batch
from scaledq.core.outputs import Network, Outputs
from scaledq.core.task import Task
from scaledq.data.loader import Transitions
from scaledq.learn.bc import BehaviourCloning
from scaledq.learn.bcq import DiscreteBCQ
from scaledq.learn.hl_gauss import HLGauss, TwoHot
from scaledq.learn.iql import IQL
from scaledq.learn.learner import Learner
from scaledq.learn.objective import Objective, ScaledQL
from scaledq.learn.td import MSE, QuantileRegression
from scaledq.nets.head import NeckConfig
from scaledq.nets.impala import ImpalaConfig
from scaledq.nets.nature import NatureConfig
from scaledq.nets.resnet import ResNetConfig
from scaledq.run import assemble
from scaledq.run.config import Encoder, RunConfig
from scaledq.study.scales import QUICK_RUN
from scaledq.study.spec import IMPALAS, RESNETS
from timing import alternate, median, report

Measure = Callable[..., list[list[float]]]
"""`alternate` with the repeats and the clock that were asked for."""
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
DEVICE = assemble.device()
SQUARED = MSE(unitary=False)
OBJECTIVES: dict[str, tuple[Objective, bare.Loss]] = {
    "scaled_ql c51": (ScaledQL(), bare.c51),
    "scaled_ql mse": (ScaledQL(td=SQUARED), bare.mse),
    "scaled_ql hl_gauss": (ScaledQL(td=HLGauss()), bare.hl_gauss),
    "scaled_ql two_hot": (ScaledQL(td=TwoHot()), bare.two_hot),
    "scaled_ql quantile": (ScaledQL(td=QuantileRegression()), bare.quantile),
    "bc": (BehaviourCloning(), bare.bc),
    "bcq mse": (DiscreteBCQ(td=SQUARED), bare.bcq),
    "iql mse": (IQL(td=SQUARED), bare.iql),
}
ENCODERS: dict[str, tuple[Encoder, int]] = {
    "nature": (NatureConfig(), 32),
    "resnet 8, width 16": (ResNetConfig(depth=8, width=16, stem="patch"), 32),
    "resnet 18": (ResNetConfig(depth=18), 8),
    "resnet 34": (RESNETS.small, 8),
    "resnet 50": (RESNETS.medium, 8),
    "resnet 101": (RESNETS.large, 4),
    "resnet 152": (RESNETS.huge, 4),
    "impala width 1": (ImpalaConfig(), 16),
    "impala width 4": (ImpalaConfig(width=4), 4),
    "impala (5, 128)": (IMPALAS.small, 4),
}
"""With the batch each is measured at; the larger IMPALAs take minutes a step on a CPU."""


def random_batch(cfg: RunConfig, *, actions: int = 3) -> Batch:
    """A batch of the run's shape with random content, every transition of full length."""
    torch.manual_seed(0)
    size, window = cfg.batch_size, cfg.transitions.stack + cfg.transitions.n_step
    batch = Batch(
        frames=torch.randint(256, (size, window, 84, 84), dtype=torch.uint8),
        task=torch.randint(len(cfg.tasks), (size,)),
        action=torch.randint(actions, (size,)),
        reward=torch.randn(size),
        step_reward=torch.randn(size),
        discount=torch.full((size,), 0.9),
        steps=torch.full((size,), cfg.transitions.n_step),
        stack=cfg.transitions.stack,
    )
    return batch.to(DEVICE)


def several(step: Callable[[], object], steps: int) -> Callable[[], None]:
    """That many steps, until the device has done them."""

    def work() -> None:
        for _ in range(steps):
            step()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    return work


def pair(cfg: RunConfig, loss: bare.Loss) -> tuple[Learner, bare.Loop, Batch]:
    """Our learner and the bare loop, from equal weights, after comparing their losses."""
    tasks = tuple(Task(name=name, actions=18) for name in cfg.tasks)
    batch = random_batch(cfg)
    learner = assemble.learner(cfg, tasks, device=DEVICE)
    loop = bare.Loop(assemble.network(cfg, tasks).to(DEVICE), cfg.optim, batch, loss)
    ours, theirs = learner.losses(batch)[0].mean(), loss(loop.net, loop.target, batch)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    return learner, loop, batch


def against_bare(
    cfg: RunConfig, measure: Measure, loss: bare.Loss = bare.c51, *, steps: int
) -> dict[str, float]:
    """Transitions/s of both, and the median of the ratios of neighbouring repeats."""
    learner, loop, batch = pair(cfg, loss)
    ours, theirs = measure(several(lambda: learner.update(batch), steps), several(loop.step, steps))
    done = steps * cfg.batch_size
    return {
        "transitions_per_s": round(done / median(ours), 1),
        "bare_transitions_per_s": round(done / median(theirs), 1),
        "ratio": ratio(theirs, ours),
    }


def ratio(slow: list[float], fast: list[float]) -> float:
    return round(median([a / b for a, b in zip(slow, fast, strict=True)]), 3)


def table(measure: Measure) -> dict[str, Any]:
    """Objectives on the quick scale's network, then encoders with C51 and CQL."""
    objectives = {
        name: against_bare(replace(QUICK_RUN, objective=o), measure, loss, steps=4)
        for name, (o, loss) in OBJECTIVES.items()
    }
    encoders = {}
    for name, (encoder, size) in ENCODERS.items():
        cfg = replace(QUICK_RUN, encoder=encoder, batch_size=size)
        encoders[name] = {"batch_size": size}
        encoders[name] |= against_bare(cfg, measure, steps=1)
    return {"objectives": objectives, "encoders": encoders}


def d3rlpy_step(batch: Batch) -> Callable[[], object] | None:
    """One update of d3rlpy's DiscreteCQL on the same transitions, already stacked as floats."""
    try:
        from d3rlpy.algos import DiscreteCQLConfig  # pyright: ignore[reportMissingImports]
        from d3rlpy.dataset import TransitionMiniBatch  # pyright: ignore[reportMissingImports]
        from d3rlpy.preprocessing import (  # pyright: ignore[reportMissingImports]
            PixelObservationScaler,
        )
    except ImportError:
        return None

    def column(values: Tensor) -> np.ndarray:
        return values.cpu().numpy().astype(np.float32).reshape(-1, 1)

    theirs = TransitionMiniBatch(
        observations=batch.obs.cpu().numpy().astype(np.float32),
        actions=column(batch.action),
        rewards=column(batch.reward),
        next_observations=batch.next_obs.cpu().numpy().astype(np.float32),
        next_actions=column(batch.action),
        terminals=column(batch.discount == 0),
        intervals=column(batch.steps),
        transitions=[],
    )
    algorithm = DiscreteCQLConfig(observation_scaler=PixelObservationScaler()).create(
        device="cuda:0" if DEVICE == "cuda" else False
    )
    algorithm.create_impl((4, 84, 84), 18)
    return lambda: algorithm.update(theirs)


def against_d3rlpy(measure: Measure, steps: int = 5) -> dict[str, Any]:
    """Its own mathematics: one task, Huber's loss, double target, alpha 1, plain features."""
    cfg = replace(
        QUICK_RUN,
        tasks=("only",),
        encoder=NatureConfig(),
        neck=NeckConfig(embedding="none", unit_norm=False),
        objective=ScaledQL(td=MSE(unitary=False, huber=1.0), alpha=1.0, double=True),
        transitions=Transitions(n_step=1),
        batch_size=32,
    )
    batch = random_batch(cfg)
    theirs = d3rlpy_step(batch)
    if theirs is None:
        return {"d3rlpy": None}
    tasks = (Task(name="only", actions=18),)
    learner = assemble.learner(cfg, tasks, device=DEVICE)
    single = assemble.learner(
        replace(cfg, objective=ScaledQL(td=SQUARED, alpha=1.0)), tasks, device=DEVICE
    )
    ours = (lambda: learner.update(batch), lambda: single.update(batch))
    times = measure(*(several(step, steps) for step in (*ours, theirs)))
    return {
        "updates_per_s": round(steps / median(times[0]), 1),
        "plain_target_updates_per_s": round(steps / median(times[1]), 1),
        "d3rlpy": round(steps / median(times[2]), 1),
        "ratio": ratio(times[2], times[0]),
        "plain_target_ratio": ratio(times[2], times[1]),
        "batch_size": cfg.batch_size,
    }


def frozen(features: Tensor, net: torch.nn.Module) -> Network:
    """A network of which only heads and masks are left: its features are always these."""

    def answer(obs: Tensor, task: Tensor) -> Outputs:
        logits = net.get_submodule("heads.q")(features, task)
        available = net.get_buffer("available")[task]
        return {
            "features": features,
            "q": logits.unflatten(-1, (-1, 51)),
            "available": available,
        }

    return answer


def heads_share(measure: Measure) -> dict[str, Any]:
    """Forward and backward through heads, masks, projection and losses, over a whole step."""
    tasks = tuple(Task(name=str(number), actions=3 + number % 16) for number in range(40))
    cfg = replace(
        QUICK_RUN, tasks=tuple(t.name for t in tasks), encoder=RESNETS.small, batch_size=32
    )
    batch = random_batch(cfg)
    learner = assemble.learner(cfg, tasks, device=DEVICE)
    assert learner.target_net is not None
    features = torch.randn(len(batch), cfg.neck.width, device=DEVICE, requires_grad=True)
    net, target = (frozen(features, n) for n in (learner.net, learner.target_net))
    heads = list(learner.net.get_submodule("heads").parameters())
    objective = cfg.objective
    assert isinstance(objective, ScaledQL)
    optimizer = cfg.optim.build(heads)

    def part() -> None:
        loss, _ = objective(net, target, batch)
        gradients = torch.autograd.grad(loss.mean(), [features, *heads])
        for head, gradient in zip(heads, gradients[1:], strict=True):
            head.grad = gradient

    works = (lambda: learner.update(batch), part, optimizer.step)
    times = measure(*(several(work, 1) for work in works))
    return {
        "share": ratio(times[1], times[0]),
        "optimizer_share": ratio(times[2], times[0]),
        "step_s": round(median(times[0]), 3),
        "batch_size": cfg.batch_size,
        "tasks": len(tasks),
    }


def quick(measure: Measure) -> dict[str, Any]:
    """The step that quickstart takes."""
    numbers = against_bare(QUICK_RUN, measure, steps=10)
    return {**numbers, "batch_size": QUICK_RUN.batch_size}


def surroundings() -> Iterator[tuple[str, Any]]:
    yield "device", torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu"
    yield "threads", torch.get_num_threads()
    yield "load", round(os.getloadavg()[0], 1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = parser.add_mutually_exclusive_group()
    modes = {"table": table, "d3rlpy": against_d3rlpy, "heads": heads_share}
    for name in modes:
        which.add_argument(f"--{name}", dest="mode", action="store_const", const=name)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    measure = partial(alternate, repeats=options.repeats, clock=CLOCKS[options.clock])
    numbers = modes.get(options.mode, quick)(measure)
    name = "train_step" + (f" {options.mode}" if options.mode else "")
    report(name, **numbers, clock=options.clock, **dict(surroundings()))


if __name__ == "__main__":
    main()
