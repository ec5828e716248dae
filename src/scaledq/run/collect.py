"""How a store comes to be: behaviours play, and every slot of every task records a log.

The logs of one recording are called <behaviour>-s<seed>-<slot>. `random` and `persistent` start
anew when they were interrupted; agents that learn meanwhile (`pqn`, `dqn`, `c51`) can go on where
they were.
"""

import contextlib
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch

from scaledq.core.config import by_kind, config, from_json, to_json
from scaledq.core.errors import ConfigError, RunError, suggest
from scaledq.core.files import locked, write_atomic
from scaledq.core.progress import Progress
from scaledq.core.protocol import DQN_REPLAY, Protocol, recording
from scaledq.core.seeds import check_seed, episode_seed
from scaledq.core.task import Task
from scaledq.data.manifest import Manifest
from scaledq.data.sources.action_log import Episode, Header
from scaledq.data.store import open_store, write_index
from scaledq.play.envs import Fleet, make_fleet
from scaledq.play.policy import (
    Dice,
    PersistentPolicy,
    Policy,
    RandomPolicy,
    Selection,
    index,
    note,
    start,
)
from scaledq.play.rollout import disturb
from scaledq.play.script import Cast
from scaledq.play.versions import versions
from scaledq.run import assemble
from scaledq.run.blind import perform, share
from scaledq.run.checkpoint import State, newest
from scaledq.run.dqn import C51, DQN, DQNConfig
from scaledq.run.folder import RUN, open_run
from scaledq.run.pqn import PQNConfig
from scaledq.run.recorder import Tape
from scaledq.run.recording import CHECKPOINTS, Agent, Recording, read_logs
from scaledq.run.signals import listening
from scaledq.run.stage import Stage, shares

RECORDINGS = ".recording"
"""STORE/.recording/<name>/ holds what a recording needs to go on, and its metrics."""
ABOUT = "recording.json"


@config
class Random:
    """Every action uniformly at random."""

    kind: Literal["random"] = "random"


@config
class Persistent:
    """Random actions, each held for a geometric number of steps."""

    kind: Literal["persistent"] = "persistent"
    hold: float = 16.0
    """Steps that an action is held on average."""

    def __post_init__(self) -> None:
        if self.hold < 1:
            raise ConfigError(f"persistent.hold: need at least 1 step, got {self.hold}")


@config
class Trained:
    """What a run learnt."""

    kind: Literal["run"] = "run"
    run: str
    """The run's folder."""
    epsilon: float = 0.01
    """Probability of a random action instead."""
    selection: Selection = "greedy"

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon <= 1:
            raise ConfigError(f"run.epsilon: must lie in [0, 1], got {self.epsilon}")


Behaviour = Random | Persistent | Trained | PQNConfig | DQNConfig


@config
class CollectConfig:
    """One recording."""

    tasks: tuple[str, ...]
    steps: int
    """Transitions of each task, over all its slots."""
    behaviour: Annotated[Behaviour, by_kind] = Persistent()
    seed: int = 0
    slots: int = 8
    """Environments of each task."""
    protocol: Protocol = DQN_REPLAY
    """Its epsilon is not used: behaviours have their own."""

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ConfigError(f"tasks: need at least one and each once, got {self.tasks}")
        if self.slots < 1 or self.steps < self.slots:
            raise ConfigError(
                f"steps: need at least one for each of the {self.slots} slots, got {self.steps}"
            )
        if isinstance(self.behaviour, DQNConfig) and self.behaviour.replay.warmup >= self.steps:
            raise ConfigError(
                f"replay.warmup: {self.behaviour.replay.warmup:,} steps of each task before the "
                f"first update leave none of {self.steps:,} to learn in; lower it, or take more"
            )

    @property
    def label(self) -> str:
        """Who acts, in a word."""
        who = self.behaviour
        match who:
            case Trained():
                return Path(who.run).resolve().name
            case DQNConfig():
                return who.name
        return who.kind

    @property
    def log_names(self) -> list[str]:
        """Of each task's logs, by slot."""
        return [f"{self.label}-s{self.seed}-{slot:02d}" for slot in range(self.slots)]

    @property
    def name(self) -> str:
        """Of the recording's folder: one for each set of logs."""
        tasks = "+".join(self.tasks) if len(self.tasks) < 4 else f"{len(self.tasks)}tasks"
        return f"{self.label}-s{self.seed}-{tasks}".replace(":", "-")


def behaviour(name: str) -> Behaviour:
    """The behaviour of that name, or of a run's folder, with its defaults.

    Raises:
      ConfigError: neither, with a suggestion.
    """
    known: dict[str, Behaviour] = {who.kind: who for who in (Random(), Persistent(), PQNConfig())}
    known |= {who.name: who for who in (DQN, C51)}
    if name not in known and (Path(name) / RUN).exists():
        return Trained(run=name)
    if name not in known:
        raise ConfigError(f"no behaviour and no run {name!r}; {suggest(name, known)}")
    return known[name]


def collect(
    cfg: CollectConfig, store: Path, *, resume: bool = False, threads: int = 0
) -> list[Manifest]:
    """Records cfg's logs, with an action log beside each, and returns their manifests.

    Args:
      store: a local folder.
      resume: go on with an agent that was interrupted: bit for bit on the CPU.
      threads: of the emulators; 0: one a core.

    Raises:
      TaskError: a task that does not exist or is not installed.
      DataError: the store has one of the logs already, or the disk is full.
      RunError: there is an unfinished recording and no `resume`, or it is another one.
      Interrupted: a signal came while an agent was learning; it can be resumed.
    """
    for task in cfg.tasks:
        versions(task)  # An unknown task is refused before there is a folder.
    who = cfg.behaviour
    if isinstance(who, PQNConfig | DQNConfig):

        def make(fleet: Fleet) -> Agent:
            rows = fleet.task_index
            return assemble.agent(who, fleet.tasks, rows, seed=cfg.seed, steps=cfg.steps)

        folder = store / RECORDINGS / cfg.name
        with locked(folder):
            record(cfg, store, folder, make, resume=resume, threads=threads)
            shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    elif isinstance(who, Trained):
        _record_policy(cfg, who, store, threads=threads)
    else:
        _record_chance(cfg, who, store, threads=threads)
    found = open_store(store)
    write_index(found)
    logs = (log for task in cfg.tasks for log in found[task] if log.name in cfg.log_names)
    return [log.manifest for log in logs]


def tapes(
    cfg: CollectConfig, tasks: Sequence[Task], store: Path, state: State | None
) -> list[Tape | None]:
    """One for each row's task [R], opened where `state` left it; None for finished logs."""
    logs = read_logs(state) if state else []
    opened: list[Tape | None] = []
    for row, task in enumerate(tasks):
        slot = row % cfg.slots
        header = Header(
            task=task,
            name=cfg.log_names[slot],
            behaviour=cfg.label,
            protocol=recording(cfg.protocol, behaviour=cfg.label),
            source={"kind": "collect", "seed": str(cfg.seed), "slot": str(slot)},
            versions=versions(task.name),
        )
        kept: tuple[Episode, ...] = logs[row].episodes if state else ()
        rows = state.scalars["rows"][row] if state else 0
        finished = (store / task.name / header.name / "zarr.json").exists()
        # A recording that was killed between finishing its first log and its last.
        played = state.scalars["slot_steps"] * cfg.slots if state else 0
        over = finished and played >= cfg.steps
        opened.append(None if over else Tape(store, header, kept=kept, rows=rows))
    return opened


def _record_chance(
    cfg: CollectConfig, who: Random | Persistent, store: Path, *, threads: int
) -> None:
    """Nobody looks at what happens, so every slot plays in its own time."""
    rows = [(name, slot) for name in cfg.tasks for slot in range(cfg.slots)]
    cast = Cast([name for name, _ in rows], cfg.protocol, threads=threads)
    lengths = np.tile(shares(cfg.steps, cfg.slots), len(cfg.tasks))
    with contextlib.ExitStack() as opened:
        opened.callback(cast.close)
        policy = _chance(who, cast.tasks)
        dice = Dice(cfg.seed, "behaviour", rows)
        unseen, heads = np.empty((len(rows), 1, 1)), np.arange(len(rows))
        steps = range(lengths.max())
        moves = np.stack([policy.act(unseen, heads, dice.at(step)) for step in steps])
        logs = [tape for tape in tapes(cfg, cast.tasks, store, None) if tape]
        for tape in logs:
            opened.callback(tape.close)
        courses = [
            share(tape, partial(episode_seed, cfg.seed, *row), moves[:length, number])
            for number, (tape, row, length) in enumerate(zip(logs, rows, lengths, strict=True))
        ]
        bar = opened.enter_context(Progress(f"collect {', '.join(cfg.tasks)}", int(lengths.sum())))
        done = 0
        for count in perform(cast, courses):
            done += count
            bar.show(done)
        for tape in logs:
            tape.finish()


def _chance(who: Random | Persistent, tasks: tuple[Task, ...]) -> Policy:
    """The policies that do not look."""
    if isinstance(who, Random):
        return RandomPolicy(tasks)
    return PersistentPolicy(tasks, hold=who.hold)


def _record_policy(cfg: CollectConfig, who: Trained, store: Path, *, threads: int) -> None:
    policy = open_run(who.run).policy(selection=who.selection)
    fleet = make_fleet(cfg.tasks, cfg.slots, cfg.protocol, stack=policy.stack, threads=threads)
    with contextlib.ExitStack() as opened:
        opened.callback(fleet.close)
        heads = np.array([index(policy, name) for name in cfg.tasks])[fleet.task_index]
        counts = np.array([task.actions for task in fleet.tasks])[fleet.task_index]
        choice, chance = (Dice(cfg.seed, name, fleet.names) for name in ("behaviour", "epsilon"))
        logs = tapes(cfg, fleet.row_tasks, store, None)
        stage = Stage(fleet, logs, steps=cfg.steps, seed=cfg.seed)
        opened.callback(stage.recorder.close)
        stage.begin()
        start(policy, fleet.rows)
        bar = opened.enter_context(Progress(f"collect {', '.join(cfg.tasks)}", stage.total))
        while stage.step < stage.length:
            actions = policy.act(fleet.obs, heads, choice.at(stage.step))
            actions = disturb(actions, counts, chance.at(stage.step), epsilon=who.epsilon)
            steps = stage.play(actions)
            note(policy, actions, steps)
            stage.renew(steps)
            bar.show(stage.recorded)
        stage.finish()


def record(  # noqa: PLR0913  (what is recorded, where, and who is told)
    cfg: CollectConfig,
    store: Path,
    folder: Path,
    make: Callable[[Fleet], Agent],
    *,
    resume: bool,
    threads: int = 0,
    keep: int = 2,
    told: contextlib.AbstractContextManager[object] | None = None,
) -> Recording:
    """Records an agent that learns, from the start or from its newest checkpoint, to the end.

    Args:
      folder: where its checkpoints and metrics lie; the caller holds its lock.
      make: the agent as it is before its first step.
      keep: how many checkpoints stay.
      told: entered while it plays: who follows its metrics.

    Raises:
      ScaledQError: as `collect`.
    """
    who = cfg.behaviour
    assert isinstance(who, PQNConfig | DQNConfig), f"{who.kind} learns nothing"
    with contextlib.ExitStack() as opened:
        state = _checkpoint(folder, cfg, resume=resume)
        fleet = make_fleet(cfg.tasks, cfg.slots, cfg.protocol, stack=who.stack, threads=threads)
        opened.callback(fleet.close)
        agent = make(fleet)
        logs = tapes(cfg, fleet.row_tasks, store, state)
        stage = Stage(fleet, logs, steps=cfg.steps, seed=cfg.seed)
        opened.callback(stage.recorder.close)
        under_way = Recording(stage, agent, folder, keep=keep)
        if state:
            under_way.resume(state)
        else:
            write_atomic(folder / ABOUT, to_json(cfg))
            under_way.begin()
        with told or contextlib.nullcontext(), listening() as stop:
            under_way.run(stop)
        stage.finish()
        return under_way


def _checkpoint(folder: Path, cfg: CollectConfig, *, resume: bool) -> State | None:
    """Where the recording in `folder` stopped, if there is one; it must be this one."""
    state = newest(folder / CHECKPOINTS, warn=lambda line: print(line, file=sys.stderr))
    if state is None:
        return None
    if from_json(CollectConfig, (folder / ABOUT).read_bytes()) != cfg:
        raise RunError(f"{folder} holds another recording; its options are in {ABOUT}")
    if not resume:
        raise RunError(f"{folder} holds an unfinished recording; add --resume, or delete it")
    # The number of threads decides the order of sums, and with it the last bits.
    torch.set_num_threads(state.scalars["threads"])
    return state
