"""What a run will cost before it runs: parameters, operations, transitions, hours on this machine.

Operations are counted by PyTorch on a network without memory (device `meta`), for one transition or
window of steps; nothing is trained for it. Hours are those operations over the speed of this
machine: that of the runs that it finished already where there are some, else of a convolution that
is timed here.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import median

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from scaledq.core.config import from_json, to_json
from scaledq.core.task import Task
from scaledq.data.store import Store
from scaledq.data.view import All, First, Span, Uniform, View
from scaledq.learn.cpc import CPC
from scaledq.learn.mae import MAE
from scaledq.learn.sequence import DecisionTransformer, SequenceCloning
from scaledq.run import assemble
from scaledq.run.config import RunConfig
from scaledq.run.folder import Run

PASSES = 3
"""Forward passes that a transition costs: one forward, and twice that backward. The target
network's is one more where the objective has one."""
EMULATED = 500
"""Steps a second, of all environments, without any network: docs/online.md measures some more."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one training run."""

    parameters: int
    operations: float
    """Floating-point operations of all of training; a multiplication and an addition are two."""
    played: int = 0
    """Transitions that it makes itself."""

    def hours(self, speed: float) -> float:
        """At `speed` operations a second."""
        return (self.operations / speed + self.played / EMULATED) / 3600


def cost(cfg: RunConfig, tasks: Sequence[Task]) -> Cost:
    """What training `cfg` on `tasks` takes, whatever the machine."""
    parameters, forward = _count(to_json(replace(cfg, seed=0, stores=())), tuple(tasks))
    passes = float(PASSES + cfg.objective.bootstraps)
    learnt = passes * cfg.batch_size * cfg.steps
    return Cost(parameters, forward * (learnt + cfg.played), cfg.played)


@cache
def _count(config: bytes, tasks: tuple[Task, ...]) -> tuple[int, int]:
    """Parameters, and the operations of one forward pass of one transition."""
    cfg = from_json(RunConfig, config)
    widest = max(tasks, key=lambda task: task.actions)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in assemble.network(cfg, tasks).parameters())
        # A transition pays for its own head alone.
        net = assemble.network(cfg, (widest,))
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            _ask(net, cfg, widest)
    return parameters, counter.get_total_flops()


def _ask(net: nn.Module, cfg: RunConfig, task: Task) -> None:
    """Asks what the objective asks about one transition, or about one window of steps."""
    index = torch.zeros(1, dtype=torch.int64)
    obs = torch.zeros(1, cfg.transitions.stack, *task.frame_shape)
    frames = torch.zeros(1, cfg.sequences.context, *task.frame_shape)
    steps = torch.zeros(1, cfg.sequences.context, dtype=torch.int64)
    match cfg.objective:
        case DecisionTransformer():  # dropout costs next to nothing, and is drawn as well
            net.eval()(frames, index, steps, steps, index)
        case SequenceCloning():
            net.eval()(frames, index, steps, steps)
        case MAE():  # what it hides is drawn, and nothing can be drawn without memory
            here = (torch.zeros(t.shape, dtype=t.dtype, device="cpu") for t in (obs, index))
            net.to_empty(device="cpu")(*here, noise=0)
        case CPC():  # before and after
            net(obs.repeat(2, 1, 1, 1), index.repeat(2))
        case _:
            net(obs, index)


def speed(finished: Iterable[Run]) -> float:
    """Operations a second on this machine: the median over runs that it finished, or measured."""
    here = [run for run in finished if "seconds" in run.facts and run.facts["seconds"] > 0]
    rates = [cost(run.config, run.tasks).operations / run.facts["seconds"] for run in here]
    return median(rates) if rates else _measured()


def transitions(view: View, stores: Sequence[Store], task: str) -> int | None:
    """About how many transitions of `task` the view leaves; None where only reading would tell."""
    counts = [
        log.manifest.counts.transitions for store in stores if task in store for log in store[task]
    ]
    match view.rows:
        case All():
            share = 1.0
        case First(fraction=share) | Uniform(fraction=share):
            pass
        case Span(start=start, stop=stop):
            share = stop - start
        case _:
            return None
    return round(share * sum(counts)) if counts else None


@cache
def _measured() -> float:
    """Operations a second of a small convolution, forward and backward: what a small run gets."""
    device = assemble.device()
    layer = torch.nn.Conv2d(32, 32, 3, padding=1).to(device)
    x = torch.randn(32, 32, 21, 21, device=device)
    layer(x).sum().backward()
    began, rounds = time.monotonic(), 0
    while time.monotonic() - began < 0.3:
        layer(x).sum().backward()
        rounds += 1
    if device == "cuda":
        torch.cuda.synchronize()
    done = rounds * 2 * 3 * 32 * 32 * 32 * 9 * 21 * 21
    return done / (time.monotonic() - began)
