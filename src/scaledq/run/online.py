"""Training runs that make their own data: the online multi-task baseline (figure 2).

Such a run plays all its tasks with one network and learns from a ring of what it did, and where its
config says so from logs of others too. It leaves a folder like any other run's, and the logs of all
it did, in order, in that folder.
"""

import contextlib
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from scaledq.core.errors import ConfigError, RunError
from scaledq.core.files import locked
from scaledq.core.protocol import Protocol
from scaledq.core.task import Task
from scaledq.data.loader import Loader
from scaledq.play.envs import Fleet, make_fleet
from scaledq.play.versions import versions
from scaledq.run import assemble
from scaledq.run.collect import CollectConfig, record
from scaledq.run.config import Online, RunConfig
from scaledq.run.dqn import DQNConfig
from scaledq.run.folder import RUN, Run, finish, open_run, surroundings, write_run
from scaledq.run.prior import Prior
from scaledq.run.replay import ReplayAgent
from scaledq.run.start import hold_back, identified, kept_tasks, take_over

STORE = "store"
"""The folder of the run's own logs, in its folder."""


def train_online(
    cfg: RunConfig, out: Path | str = "runs", *, resume: bool = False, threads: int = 0
) -> Run:
    """Trains an online run in `out/<slug>-<fingerprint>`; a finished one is kept.

    Args:
      threads: of the emulators; 0: one a core.

    Raises:
      ConfigError: `cfg` is not of an online run, or names stores but no prior data, or the
        reverse; or a tracker is missing.
      TaskError: a task that does not exist or is not installed, or that is another one in the logs.
      DataError: prior data that the stores do not have.
      RunError: torchrun started several processes; the folder is in use, or holds an unfinished run
        and there is no `resume`; or there is nothing to start from where `cfg.start` says.
      DivergedError: a loss or gradient norm was not finite.
      Interrupted: SIGINT or SIGTERM came; a checkpoint was written first.
    """
    online = _checked(cfg)
    cfg = identified(cfg)
    folder = Path(out) / cfg.folder
    if (folder / RUN).exists() and open_run(folder).has_weights:
        print(f"already finished: {folder}", file=sys.stderr)
        return open_run(folder)
    told = assemble.tracking(cfg, folder)
    # What is unknown, or does not fit, is refused before there is a folder.
    played = _tasks(cfg, online.protocol)
    plan = planned(cfg, online)
    with contextlib.ExitStack() as opened:
        prior = assemble.prior(cfg)
        if prior:
            opened.callback(prior.close)
        beginning = _beginning(cfg, played, prior)

        def make(fleet: Fleet) -> ReplayAgent:
            return _prepare(cfg, plan, fleet, folder, beginning)

        opened.enter_context(locked(folder))
        store, keep = folder / STORE, cfg.checkpoints
        done = record(
            plan, store, folder, make, resume=resume, threads=threads, keep=keep, told=told
        )
        agent = done.agent
        assert isinstance(agent, ReplayAgent)
        weights = agent.learner.net.state_dict()
        return finish(open_run(folder), weights, seconds=done.seconds)


def _checked(cfg: RunConfig) -> Online:
    """How it plays, once it is known that all is there for it."""
    online = cfg.online
    if online is None:
        raise ConfigError("online: this run learns from logs; give it a field `online`")
    if cfg.stores and not online.prior:
        raise ConfigError(
            f"stores: an online run makes its own data, got {', '.join(cfg.stores)}; leave it out, "
            "or say with online.prior what part of each batch comes from there"
        )
    if online.prior and not cfg.stores:
        raise ConfigError(
            f"online.prior: a part of each batch comes from logs of {', '.join(cfg.logged)}, and "
            "there are none: give --store DIR"
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RunError("an online run is one process; start it without torchrun")
    return online


def planned(cfg: RunConfig, online: Online) -> CollectConfig:
    """The recording that the run is: `cfg.steps` updates, and the play that earns them."""
    return CollectConfig(
        tasks=cfg.tasks,
        steps=cfg.played // len(cfg.tasks),
        behaviour=DQNConfig(
            name=cfg.method,
            objective=cfg.objective,
            encoder=cfg.encoder,
            neck=cfg.neck,
            optim=cfg.optim,
            transitions=cfg.transitions,
            batch_size=cfg.batch_size,
            replay=online.replay,
            compute=cfg.compute,
            log_every=cfg.log_every,
            checkpoint_every=cfg.checkpoint_every,
        ),
        seed=cfg.seed,
        slots=online.slots,
        protocol=online.protocol,
    )


@dataclass(frozen=True, slots=True)
class Beginning:
    """A run's network before its first step, over the tasks that it learns and those it kept."""

    tasks: tuple[Task, ...]
    net: nn.Module
    taken: dict[str, Any]
    """What it took over from another run: facts for run.json."""
    prior: Prior | None
    """Where a part of its batches comes from."""


def _tasks(cfg: RunConfig, protocol: Protocol) -> tuple[Task, ...]:
    for task in cfg.tasks:
        versions(task)
    fleet = make_fleet(cfg.tasks, 1, protocol, threads=1)
    fleet.close()
    return fleet.tasks


def _beginning(cfg: RunConfig, played: tuple[Task, ...], prior: Prior | None) -> Beginning:
    others = prior.others(played) if prior else ()
    tasks = (*played, *others, *kept_tasks(cfg))
    net = assemble.network(cfg, tasks)
    return Beginning(tasks, net, take_over(net, cfg, tasks, data=""), prior)


def _prepare(
    cfg: RunConfig, plan: CollectConfig, fleet: Fleet, folder: Path, beginning: Beginning
) -> ReplayAgent:
    """The agent at its first step, and run.json beside it."""
    behaviour, tasks, net = plan.behaviour, beginning.tasks, beginning.net
    prior = beginning.prior
    assert isinstance(behaviour, DQNConfig)
    learner = assemble.learner(cfg, tasks, device=assemble.device(), net=net)
    hold_back(learner, cfg)
    agent = assemble.dqn(
        behaviour,
        fleet.tasks,
        fleet.task_index,
        seed=cfg.seed,
        steps=plan.steps,
        learner=learner,
        stop_after=cfg.steps,
        prior=prior,
        known=tasks,
    )
    logs = {"prior": _told(cfg, prior.loader)} if prior else {}
    digest = prior.loader.digest if prior else None
    if not (folder / RUN).exists():
        facts = {"transitions": [plan.steps] * len(fleet.tasks), "start": beginning.taken}
        facts = {name: fact for name, fact in facts.items() if fact} | logs
        facts["parameters"] = sum(p.numel() for p in learner.net.parameters())
        stored = replace(cfg, stores=(str(folder / STORE),))
        write_run(Run(folder, stored, tasks, {**facts, **surroundings()}))
    elif open_run(folder).config.placeless != cfg.placeless:
        raise RunError(f"{folder} holds a run of another config; choose another --out")
    elif (before := open_run(folder).facts.get("prior", {})).get("data") != digest:
        raise RunError(
            f"{folder} was begun with other logs, of {', '.join(before['stores'])}; give the same "
            "stores or choose another --out"
        )
    return agent


def _told(cfg: RunConfig, loader: Loader) -> dict[str, Any]:
    """What run.json says of the prior data, whose stores its config does not name."""
    sizes = [int(size) for size in loader.sizes]
    return {"data": loader.digest, "transitions": sizes, "stores": list(cfg.stores)}
