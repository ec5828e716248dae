"""What this machine can do, and what the paper's run would therefore take on it.

Three things are measured: how fast batches come from a store, how long a step takes for each of the
paper's networks, and how fast games are played. The rest is arithmetic on them, and says so.
"""

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.autograd.graph import saved_tensors_hooks

from scaledq.core.batch import Batch
from scaledq.core.errors import ConfigError
from scaledq.core.seeds import stream
from scaledq.core.task import Task
from scaledq.data.loader import Loader
from scaledq.data.store import Store, open_store
from scaledq.data.view import View
from scaledq.data.writer import LogWriter
from scaledq.learn.learner import Learner
from scaledq.play.envs import make_fleet
from scaledq.play.policy import Policy, RandomPolicy
from scaledq.run import assemble
from scaledq.run.compute import Compute
from scaledq.run.config import RunConfig
from scaledq.run.folder import hardware
from scaledq.study.cost import cost
from scaledq.study.scales import PAPER, QUICK_RUN
from scaledq.study.spec import RESNETS

ROWS = 4_096
"""Of the synthetic log, where no store is given."""
STATE = 20
"""Bytes a parameter: float32 weights, gradient, two moments, and the target network's copy."""
SMALL_BATCH = 4
"""Where there is no GPU; steps then are seconds, and longer batches take proportionally longer."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Of one network at the paper's setting: ResNet `depth`, one step of `batch_size`."""

    depth: int
    batch_size: int
    step: float
    """Seconds, the median of a few."""
    parameters: int
    operations: float
    """Floating-point operations of a transition."""
    activations: float
    """Bytes a transition that wait for the backward pass."""

    def seconds(self, batch_size: int) -> float:
        """Of a step of that batch: in proportion, which is right where the device is busy."""
        return self.step * batch_size / self.batch_size

    def memory(self, batch_size: int) -> float:
        """Bytes on the device, without what libraries take for themselves."""
        return STATE * self.parameters + self.activations * batch_size


@dataclass(frozen=True, slots=True)
class Findings:
    """What `bench` found; rates are per second."""

    hardware: str
    compute: Compute
    networks: tuple[Measured, ...]
    reads: float
    """Transitions that the loader hands on, with nothing else to do."""
    plays: float
    """Steps of one game's environments under the quick scale's network, which is a small one."""
    bare_plays: float
    """The same without a network."""

    def hours(self, network: Measured, cfg: RunConfig) -> float:
        """Of training `cfg` with that network: steps wait for batches only if those come slower."""
        step = max(network.seconds(cfg.batch_size), cfg.batch_size / self.reads)
        return cfg.steps * step / 3600


def bench(store: str = "", *, task: str = "Pong", budget: float = 20.0) -> Findings:
    """Measures, for about `budget` seconds each: batches, every ResNet's step, and play.

    Args:
      store: whose logs to read; a synthetic one in a temporary folder by default.
      task: what to play.

    Raises:
      ConfigError: a budget below a second, or without end.
      DataError: a store that is not there, or damaged.
      TaskError: a store without a task, or a task that cannot be played.
    """
    if not 1 <= budget < math.inf:
        raise ConfigError(f"bench needs at least a second for each thing, and an end, got {budget}")
    with reading(store) as found:
        loader = batches(found)
        plays = play_rate(task, budget=budget / 2, net=True)
        bare_plays = play_rate(task, budget=budget / 2, net=False)
        reads = read_rate(loader, budget=budget)
    device = assemble.device()
    on_gpu = device == "cuda"
    compute = Compute(channels_last=True)
    if on_gpu:
        compute = Compute(precision="bf16", channels_last=True, compile=True)
    networks = []
    for encoder in (RESNETS.small, RESNETS.medium, RESNETS.large, RESNETS.huge):
        cfg = replace(PAPER.run, encoder=encoder, compute=compute)
        size = cfg.batch_size if on_gpu else SMALL_BATCH
        networks.append(measure(replace(cfg, batch_size=size), device=device, budget=budget / 4))
    return Findings(
        hardware=hardware(),
        compute=compute,
        networks=tuple(networks),
        reads=reads,
        plays=plays,
        bare_plays=bare_plays,
    )


def measure(cfg: RunConfig, *, device: str, budget: float) -> Measured:
    """A network's step at the config's own batch, on random pictures."""
    tasks = tuple(Task(name=name, actions=18) for name in cfg.tasks)
    learner = assemble.learner(cfg, tasks, device=device)
    batch = random_batch(cfg, tasks).to(device)
    kept = saved(learner, batch)
    about = cost(cfg, tasks)
    step = median_time(lambda: learner.update(batch), budget=budget, device=device)
    return Measured(
        depth=getattr(cfg.encoder, "depth", 0),
        batch_size=cfg.batch_size,
        step=step,
        parameters=about.parameters,
        operations=about.operations / cfg.steps / cfg.batch_size,
        activations=kept / cfg.batch_size,
    )


def random_batch(cfg: RunConfig, tasks: Sequence[Task]) -> Batch:
    """A batch of the run's shape with random content, every transition of full length."""
    rng = torch.Generator().manual_seed(0)
    size, t = cfg.batch_size, cfg.transitions
    shape = (size, t.stack + t.n_step, *tasks[0].frame_shape)
    return Batch(
        frames=torch.randint(256, shape, generator=rng, dtype=torch.uint8),
        task=torch.randint(len(tasks), (size,), generator=rng),
        action=torch.randint(3, (size,), generator=rng),
        reward=torch.randn(size, generator=rng),
        step_reward=torch.randn(size, generator=rng),
        discount=torch.full((size,), t.gamma**t.n_step),
        steps=torch.full((size,), t.n_step),
        stack=t.stack,
    )


def saved(learner: Learner, batch: Batch) -> int:
    """Bytes that a step keeps for its backward pass, each memory block once; without weights."""
    weights = {p.untyped_storage().data_ptr() for p in learner.net.parameters()}
    blocks: dict[int, int] = {}
    held: list[torch.Tensor] = []  # until all are counted: an address may be given out again

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        held.append(tensor)
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            blocks[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        learner.own_losses(learner.scaled(batch))
    return sum(blocks.values())


def median_time(work: Callable[[], object], *, budget: float, device: str) -> float:
    """Seconds of one call, after one that does not count: three at least."""
    work()
    times: list[float] = []
    while len(times) < 3 or sum(times) < budget:
        began = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


@contextmanager
def reading(store: str) -> Iterator[Store]:
    """The given store, or one of random blocks whose frames compress about as real ones do."""
    if store:
        yield open_store(store)
        return
    folder = Path(tempfile.mkdtemp(prefix="scaledq-"))
    try:
        task = Task(name="synthetic", actions=18)
        about = {"behaviour": "random", "protocol": None, "source": {}, "versions": {}}
        with LogWriter(folder, task, "log", **about) as log:
            rng = stream(0, "bench")
            for _ in range(ROWS // 256):
                coarse = rng.integers(256, size=(256, 7, 7), dtype=np.uint8)
                frames = coarse.repeat(12, axis=1).repeat(12, axis=2)
                actions = rng.integers(18, size=256).astype(np.int16)
                ends = np.arange(256) == 255
                none = np.zeros(256, bool)
                log.append(frames, actions, np.zeros(256, np.float32), ends, none)
            log.finish()
        yield open_store(folder)
    finally:
        shutil.rmtree(folder)


def batches(store: Store) -> Loader:
    """The paper's batches, over all tasks of the store; raises what `Loader` raises."""
    cfg = PAPER.run
    return Loader(
        [store],
        store.tasks,
        view=View(),
        transitions=cfg.transitions,
        batch_size=cfg.batch_size,
        seed=0,
    )


def read_rate(loader: Loader, *, budget: float) -> float:
    """Transitions a second that the loader hands on."""
    done, began = 0, time.perf_counter()
    for batch in loader.stream(0, 1_000_000):
        done += len(batch)
        if time.perf_counter() - began > budget:
            break
    return done / (time.perf_counter() - began)


def play_rate(task: str, *, budget: float, net: bool) -> float:
    """Steps a second of eight environments of one task, under the quick scale's network or none."""
    cfg = replace(QUICK_RUN, tasks=(task,))
    fleet = make_fleet((task,), 8, cfg.protocol, stack=cfg.transitions.stack)
    try:
        device = assemble.device()
        policy: Policy = RandomPolicy(fleet.tasks)
        if net:
            network = assemble.network(cfg, fleet.tasks).to(device).eval()
            policy = assemble.policy(cfg, network, selection="greedy", device=device)
        chance, seeds = np.random.default_rng(0), np.arange(fleet.rows)
        fleet.reset(np.ones(fleet.rows, bool), seeds)
        steps, began = 0, time.perf_counter()
        while time.perf_counter() - began < budget:
            actions = policy.act(fleet.obs, fleet.task_index, chance.random(fleet.rows))
            ended = fleet.step(actions).ended
            if ended.any():
                fleet.reset(ended, seeds[ended])
            steps += fleet.rows
        return steps / (time.perf_counter() - began)
    finally:
        fleet.close()
