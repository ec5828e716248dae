"""How a trained run becomes the beginning of another one: which config that is (section 5.2).

Everything here is about configs and data; the training itself is `train`'s.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from scaledq.core.atari import games
from scaledq.core.config import config
from scaledq.core.errors import ConfigError, DataError, TaskError, suggest
from scaledq.core.protocol import SCALED_QL
from scaledq.data.store import Log, Store, open_store
from scaledq.data.view import All, Uniform, View
from scaledq.learn.objective import Pretraining
from scaledq.play.envs import is_game
from scaledq.run import assemble
from scaledq.run.config import Online, PriorData, RunConfig, Start
from scaledq.run.evaluate import episode_returns
from scaledq.run.folder import Run, write_run
from scaledq.run.train import train

STEPS = 100_000
"""At most, unless said otherwise: what Lee et al. (2022) fine-tune for."""
STRETCHES = 50
"""Of a log, as DQN-Replay has checkpoints: the best of them is the best score in the data."""


@config
class FineTuning:
    """A new task for a trained network, and what becomes of what it knew."""

    task: str
    stores: tuple[str, ...] = ()
    """None where it learns online."""
    frames: int = 0
    """That it plays and learns from: an emulator's, or elsewhere steps. 0: it learns from logs."""
    fraction: float = 1.0
    """Of each log, drawn uniformly once; 0.01 in the paper."""
    frozen: bool = False
    """The encoder (and the body, where old tasks stay) does not learn on."""
    from_scratch: bool = False
    """The same run from random weights: what fine-tuning is compared with."""
    keep: tuple[str, ...] = ()
    """Old tasks whose heads stay although nothing of them is learnt; `all` for every one."""
    replay: tuple[str, ...] = ()
    """Old tasks that are learnt on, from logs in `stores`; `all` for every one."""
    replay_share: float = 0.5
    """The share of each batch that all replayed tasks together get; online, that all logs get."""
    head: str = ""
    """Old task whose head the new one begins with."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ConfigError(f"--fraction must lie in (0, 1], got {self.fraction}")
        if self.frames < 0:
            raise ConfigError(f"--frames must be above 0, got {self.frames}")
        if self.frames and not self.stores and (self.fraction < 1 or self.replay):
            raise ConfigError(
                "--fraction and --replay choose from logs, and --online without --store has none"
            )
        if not 0 < self.replay_share < 1:
            raise ConfigError(f"--replay-share must lie in (0, 1), got {self.replay_share}")
        if self.from_scratch and (self.frozen or self.keep or self.replay or self.head):
            raise ConfigError(
                "--from-scratch takes nothing over: drop --frozen, --keep, --replay, --head"
            )


def finetuned(source: Run, how: FineTuning, *, base: RunConfig | None = None) -> RunConfig:
    """The config of the run that `how` asks for.

    Args:
      base: whose objective, neck and optimiser to use; the source's own by default. The encoder is
        always the source's.

    Raises:
      TaskError: the task is in the source already, or an old one is not.
      ConfigError: the source has no policy and there is no base, or its encoder is of another sort.
    """
    if how.task in source.config.known_tasks:
        raise TaskError(
            f"{how.task} is in {source.name} already: evaluate it, or choose a task that is new"
        )
    cfg = _based(source, base)
    replayed = _named(source, how.replay, "replay")
    kept = tuple(t for t in _named(source, how.keep, "keep") if t not in replayed)
    start = base.start if base else Start()
    head = _head(source, how, start)
    old = bool(replayed or kept or head)
    start = replace(
        start,
        run=str(source.folder),
        parts="all" if old else start.parts,
        frozen=how.frozen or start.frozen,
        keep=kept,
        head=head,
    )
    online = _online(cfg, how, replayed) if how.frames else None
    return replace(
        cfg,
        online=online,
        tasks=(how.task,) if online else (how.task, *replayed),
        stores=how.stores,
        view=_view(how, () if online else replayed),
        steps=_updates(online, how) if online else min(cfg.steps, STEPS),
        seed=how.seed,
        start=Start() if how.from_scratch else start,
    )


def finetune(cfg: RunConfig, out: Path | str = "runs", *, resume: bool = False) -> Run:
    """Trains a run that `finetuned` made, and notes what its new task's scores are measured by.

    Raises:
      DataError: the data hold less than one batch of the new task.
      ScaledQError: any of `train`'s own.
    """
    task = cfg.tasks[0]
    if not cfg.online:
        found = int(assemble.loader(cfg).sizes[0])
        if found < cfg.batch_size:
            raise DataError(
                f"{task}: {found} transitions are fewer than one batch of {cfg.batch_size}; give a "
                "larger --fraction, more logs or a smaller --batch-size"
            )
    run = train(cfg, out, resume=resume)
    if not cfg.online and "reference" not in run.facts:
        scores = reference([open_store(path) for path in cfg.stores], task)
        run = replace(run, facts={**run.facts, "reference": {task: scores}})
        write_run(run)
    return run


def reference(stores: Sequence[Store], task: str) -> dict[str, float]:
    """Scores of the task by name: `data_best`, and where they are published `random`, `human` and
    `dqn_best`. DQN-normalised is (score - random) / (best - random) (Lee et al., 2022)."""
    found = {}
    best = best_in_data([log for s in stores if task in s for log in s[task]])
    if best is not None:
        found["data_best"] = best
    game = games().get(task)
    if game is not None:
        found |= {"random": game.random, "human": game.human}
        found |= {"dqn_best": game.dqn_best} if game.dqn_best is not None else {}
    return found


def best_in_data(logs: Sequence[Log]) -> float | None:
    """The highest mean raw return of the episodes that end in one 50th of a log; None without."""
    best = None
    for log in logs:
        returns, lengths = episode_returns(log)
        if not len(returns):
            continue
        ends = np.cumsum(lengths)
        stretch = np.minimum((ends - 1) * STRETCHES // ends[-1], STRETCHES - 1)
        sums = np.bincount(stretch, weights=returns, minlength=STRETCHES)
        counts = np.bincount(stretch, minlength=STRETCHES)
        highest = float((sums[counts > 0] / counts[counts > 0]).max())
        best = highest if best is None else max(best, highest)
    return best


def _based(source: Run, base: RunConfig | None) -> RunConfig:
    own = source.config
    if base is None:
        if isinstance(own.objective, Pretraining):
            raise ConfigError(
                f"{source.name} has trained an encoder and knows no objective for a policy: say "
                "what to learn on it, as --recipe scaled_ql --scale quick"
            )
        return own
    if base.sequential != own.sequential:
        raise ConfigError(
            f"{source.name} has an encoder of kind {own.encoder.kind!r}, and the recipe's "
            f"objective {base.objective.kind!r} does not go with it; choose another recipe"
        )
    transitions = replace(base.transitions, stack=own.transitions.stack)
    return replace(base, encoder=own.encoder, transitions=transitions)


def game_of(task: str, known: Sequence[str]) -> str:
    """The game that the task is a variant of, if that is known; else nothing."""
    game, variant, _ = task.partition(":")
    return game if variant and game in known else ""


def _head(source: Run, how: FineTuning, start: Start) -> str:
    """The old task whose head the new one begins with, if it is to begin with one."""
    if how.head:
        return _named(source, (how.head,), "head")[0]
    if how.from_scratch or start.parts != "all":
        return ""
    found = game_of(how.task, source.config.known_tasks)
    if not found:
        raise ConfigError(
            f"this recipe begins with what {source.name} would play, and {how.task} is no variant "
            f"of a task of it: say whose head to take, as --head {source.config.known_tasks[0]}"
        )
    return found


def _online(cfg: RunConfig, how: FineTuning, replayed: tuple[str, ...]) -> Online:
    """How it plays: as DQN-Replay was recorded, or by the run's own rules if those are not the
    paper's. The first tenth of a short budget, and at most 20,000 steps, only fill the ring."""
    online = cfg.online or Online()
    if cfg.online is None and cfg.protocol != SCALED_QL:
        online = replace(online, protocol=cfg.protocol)
    if how.stores:
        prior = replace(online.prior or PriorData(), share=how.replay_share, tasks=replayed)
        online = replace(online, prior=prior)
    steps = how.frames // _skip(online, how.task)
    replay = online.replay
    ring = replace(replay.ring, capacity=min(replay.ring.capacity, max(2 * steps, 1_000)))
    warmup = min(replay.warmup, max(1, steps // 10))
    return replace(online, replay=replace(replay, ring=ring, warmup=warmup))


def _updates(online: Online, how: FineTuning) -> int:
    """What so many frames of play earn."""
    replay, skip = online.replay, _skip(online, how.task)
    updates = (how.frames // skip - replay.warmup) // replay.train_every
    if updates < 1:
        raise ConfigError(
            f"--frames {how.frames:,}: too few for one update: {replay.warmup} steps of {skip} "
            f"frames fill the ring, and an update takes {replay.train_every} more"
        )
    return updates


def _skip(online: Online, task: str) -> int:
    """Frames of a step: only emulators skip any."""
    return online.protocol.frame_skip if is_game(task) else 1


def _named(source: Run, tasks: tuple[str, ...], option: str) -> tuple[str, ...]:
    known = source.config.known_tasks
    if tasks == ("all",):
        return known
    for task in tasks:
        if task not in known:
            raise TaskError(f"--{option}: {source.name} has no {task!r}; {suggest(task, known)}")
    return tasks


def _view(how: FineTuning, replayed: tuple[str, ...]) -> View:
    rows = All() if how.fraction == 1 else Uniform(fraction=how.fraction)
    if not replayed:
        return View(rows=rows)
    own = len(replayed) * (1 - how.replay_share) / how.replay_share
    return View(rows=rows, weights={how.task: own})
