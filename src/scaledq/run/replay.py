"""An agent that learns from a ring of its last steps: an update every few of them, while it plays.

What it minimises, its network and where its weights come from are its learner's affair: DQN, C51
and conservative fine-tuning differ in nothing else. A part of each batch may come from logs.

Shapes: R rows (environments of all tasks).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from scaledq.core.batch import Batch
from scaledq.core.config import config
from scaledq.core.errors import ConfigError
from scaledq.data.ring import Ring, RingConfig
from scaledq.learn.learner import Learner
from scaledq.learn.objective import Pretraining
from scaledq.run.checkpoint import State
from scaledq.run.explore import Explorer, check_zeta, epsilon_at
from scaledq.run.prior import Prior
from scaledq.run.stage import Stage

ROUND = 16
"""Steps of every environment in a round, at most."""
BLOCK = 2048
"""Frames of a log that are read back at once."""


@config
class Replay:
    """When it learns, and from what; how it explores."""

    ring: RingConfig = RingConfig()
    train_every: int = 4
    """Transitions, of all tasks together, for each update."""
    warmup: int = 20_000
    """Transitions of each task before the first update."""
    epsilon: float = 0.01
    """Probability of a random action after the first `explore` of the recording; 1 at its start."""
    explore: float = 0.1
    """0: it acts by its own values from the first step on, and the warm-up is what the policy plays
    that it starts with (WSRL, Zhou et al., 2024)."""
    zeta: float | None = None
    """A random action lasts n steps with a probability as n ** -zeta, 2 in Dabney et al. (2021);
    none: one step. Where only a long way in one direction pays, as in Freeway, it finds that."""
    reset_every: int = 0
    """Updates after which a part of the network begins anew, again and again, while the ring stays
    (Nikishin et al., 2022); not within so many updates of the end. 0: never."""
    reset: Literal["heads", "neck"] = "heads"
    """neck: also all that lies between encoder and heads."""

    def __post_init__(self) -> None:
        for field in ("train_every", "warmup"):
            if getattr(self, field) < 1:
                raise ConfigError(f"replay.{field}: need at least 1, got {getattr(self, field)}")
        if self.reset_every < 0:
            raise ConfigError(f"replay.reset_every: need 0 or more, got {self.reset_every}")
        for field in ("epsilon", "explore"):
            if not 0 <= getattr(self, field) <= 1:
                raise ConfigError(f"replay.{field}: must lie in [0, 1], got {getattr(self, field)}")
        check_zeta("replay.zeta", self.zeta)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """What happens after how many updates."""

    log_every: int
    checkpoint_every: int
    stop_after: int | None = None
    """It plays on without learning; none: it learns to the end."""


class ReplayAgent:
    """Owns a learner and the ring it learns from. A function of (seed, steps so far) but for these.

    Args:
      learner: whose weights, objective and optimiser; its step counts the updates.
      ring: empty.
      task_index: int64 [R], the task of each row that it plays.
      seed: of exploration.
      prior: where the rest of each batch comes from, if the ring's are not whole ones.
      renewed: number of a reset, from 1 -> the weights that are made anew then, by name.
    """

    def __init__(  # noqa: PLR0913  (what learns, what from, and when)
        self,
        learner: Learner,
        ring: Ring,
        replay: Replay,
        task_index: np.ndarray,
        *,
        rhythm: Rhythm,
        seed: int,
        prior: Prior | None = None,
        renewed: Callable[[int], Mapping[str, Tensor]] | None = None,
    ) -> None:
        self.learner, self.ring, self.replay, self.rhythm = learner, ring, replay, rhythm
        self.prior, self._renewed = prior, renewed
        choices = np.array([task.actions for task in ring.tasks])[task_index]
        self._explorer = Explorer(choices, seed=seed, zeta=replay.zeta)
        self.device = next(learner.net.parameters()).device
        self._task = torch.from_numpy(task_index).to(self.device)
        self._before = 0
        self._metrics: dict[str, Tensor] = {}

    @torch.inference_mode()
    def values(self, obs: np.ndarray, rows: slice | np.ndarray = slice(None)) -> Tensor:
        """Preferences [r A] for obs [r S *frame] in the given rows; -inf for lacking actions."""
        outputs = self.learner.net(torch.from_numpy(obs).to(self.device), self._task[rows])
        objective = self.learner.objective
        assert not isinstance(objective, Pretraining), f"{objective.kind} cannot play"
        return objective.preferences(outputs)

    def batch(self, step: int) -> Batch:
        """What update `step` learns from: rows of the ring, then those of logs."""
        own = self.ring.batch(step)
        return own.joined(self.prior.batch(step)) if self.prior else own

    def begin(self, stage: Stage) -> None:
        """Takes the first frames into the ring."""
        self.ring.begin(stage.playing, stage.fleet.obs[:, -1])

    def round(self, stage: Stage) -> None:
        """Some steps, and the updates that are due: while the emulators work, if they can."""
        self._before = self.learner.step
        for _ in range(min(ROUND, stage.length - stage.step)):
            self._step(stage)
            if self.due() or self.late(0.0):
                break
        if stage.step == stage.length:
            self._learn(stage)

    def step(self, stage: Stage) -> int:
        """Updates so far."""
        return self.learner.step

    def due(self) -> bool:
        """Every `log_every` updates."""
        return self._passed(self.rhythm.log_every)

    def late(self, seconds: float) -> bool:
        """Every `checkpoint_every` updates."""
        return self._passed(self.rhythm.checkpoint_every)

    def metrics(self, stage: Stage) -> dict[str, float | int]:
        """Of the last update; raises DivergedError if one of them was not finite."""
        self.learner.check()
        row = {"transitions": stage.recorded, "epsilon": self._epsilon(stage)}
        return row | {name: float(value) for name, value in self._metrics.items()}

    def tensors(self) -> dict[str, Tensor]:
        """The learner's; the ring's rows are in the logs. Raises DivergedError as `metrics`."""
        self.learner.check()
        state = self.learner.state_dict()
        return {name: value for name, value in state.items() if isinstance(value, Tensor)}

    def scalars(self) -> dict[str, Any]:
        """The learner's step, and how random actions go on."""
        return {"updates": self.learner.step, **self._explorer.scalars()}

    def load(self, state: State) -> None:
        """Takes up the learner; raises RunError if it is another network's or objective's."""
        tensors = {k: v for k, v in state.tensors.items() if not k.startswith("log.")}
        self.learner.load_state_dict({**tensors, "step": state.scalars["updates"]})
        self._explorer.load(state.scalars)

    def resume(self, stage: Stage) -> None:
        """Fills the ring with the last rows of every log, which is what it held."""
        playing = stage.playing
        for slot, tape in enumerate(stage.recorder.tapes):
            if tape is None:
                continue
            rows = tape.rows
            first = max(0, rows - self.ring.length)
            names = ("action", "reward", "terminated", "truncated")
            columns = [tape.read(name, first, rows) for name in names]
            self.ring.restore(slot, *columns, rows=rows, playing=bool(playing[slot]))
            for at in range(first, rows, BLOCK):
                self.ring.put(slot, at, tape.read("frames", at, min(at + BLOCK, rows)))
            if self.ring.rows[slot] > rows:
                self.ring.put(slot, rows, stage.fleet.obs[slot, -1:])

    def _step(self, stage: Stage) -> None:
        fleet = stage.fleet
        playing, values = stage.playing, self.values(fleet.obs)
        actions = self._explorer.act(values, step=stage.step, epsilon=self._epsilon(stage))
        stage.send(actions)
        self._learn(stage)
        steps = stage.recv()
        ends = (steps.terminated, steps.truncated)
        self.ring.add(playing, actions, steps.reward, *ends, steps.frames)
        self.ring.cut(stage.stopped(steps))
        stage.renew(steps)
        self.ring.begin(stage.begun(steps), fleet.obs[:, -1])

    def _learn(self, stage: Stage) -> None:
        """Takes the updates that the steps so far have earned."""
        earned, last = (self._earned(stage, steps) for steps in (stage.recorded, stage.total))
        while self.learner.step < earned:
            batch = self.batch(self.learner.step).to(self.device, non_blocking=True)
            self._metrics = self.learner.update(batch)
            self._renew(self.learner.step, last)

    def _earned(self, stage: Stage, steps: int) -> int:
        """Updates that so many transitions are worth."""
        ready = steps - self.replay.warmup * len(stage.fleet.tasks)
        earned = max(0, ready // self.replay.train_every)
        return earned if self.rhythm.stop_after is None else min(earned, self.rhythm.stop_after)

    def _renew(self, step: int, last: int) -> None:
        """Lets a part of the network begin anew after update `step` of `last`, if it is time."""
        every = self.replay.reset_every
        if self._renewed and every and step % every == 0 and last - step >= every:
            self.learner.renew(self._renewed(step // every))

    def _epsilon(self, stage: Stage) -> float:
        replay = self.replay
        progress = stage.step / stage.length
        return epsilon_at(progress, last=replay.epsilon, explore=replay.explore)

    def _passed(self, every: int) -> bool:
        return self.learner.step // every > self._before // every
