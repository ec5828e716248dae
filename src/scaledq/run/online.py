"""PQN: an agent that learns while it plays, all of it recorded, and resumable bit for bit.

Parallel Q-learning (Gallici et al., 2024, https://arxiv.org/abs/2407.04811): no replay, no target
network; layer norm, many environments and Q(lambda) targets keep it stable. One network over all
tasks, one head each. Shapes: T steps of a rollout, R rows (environments of all tasks), S A as ever.
"""

import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from scaledq.core import journal
from scaledq.core.config import by_kind, config
from scaledq.core.errors import ConfigError, DivergedError
from scaledq.core.journal import Journal
from scaledq.core.outputs import HeadSpec
from scaledq.core.progress import Progress
from scaledq.core.seeds import stream
from scaledq.core.task import Task
from scaledq.data.sources.action_log import ActionLog, pack, unpack
from scaledq.learn.cql import masked, of_action
from scaledq.learn.optim import OptimConfig
from scaledq.learn.returns import lambda_returns
from scaledq.learn.td import MSE, TDError
from scaledq.nets.head import NeckConfig, Network
from scaledq.nets.nature import NatureConfig
from scaledq.run import assemble
from scaledq.run.checkpoint import State, save_checkpoint
from scaledq.run.config import Encoder
from scaledq.run.signals import Interrupted, Stop
from scaledq.run.stage import Stage

METRICS, CHECKPOINTS = "metrics.jsonl", "checkpoints"


@config
class PQNConfig:
    """How the agent learns. Rewards are clipped for learning only; the logs have them raw."""

    kind: Literal["pqn"] = "pqn"
    encoder: Annotated[Encoder, by_kind] = NatureConfig(layer_norm=True)
    neck: NeckConfig = NeckConfig(embedding="none", layer_norm=True, unit_norm=False)
    td: Annotated[TDError, by_kind] = MSE(unitary=False)
    """What the loss is to the lambda return; its own bootstrapped target is not used."""
    optim: OptimConfig = OptimConfig(lr=2.5e-4, eps=1e-8, clip=10.0)
    gamma: float = 0.99
    lam: float = 0.65
    stack: int = 4
    reward_clip: float = 1.0
    rollout: int = 32
    """Steps of every environment between two rounds of learning: T."""
    epochs: int = 2
    minibatch: int = 64
    """Transitions of one update."""
    epsilon: float = 0.01
    """Probability of a random action after the first `explore` of the recording; 1 at its start."""
    explore: float = 0.1
    log_every: int = 20
    """Rollouts between two rows of metrics."""
    checkpoint_every: float = 120.0
    """Seconds between two checkpoints."""

    def __post_init__(self) -> None:
        for field in ("stack", "rollout", "epochs", "minibatch", "log_every"):
            if getattr(self, field) < 1:
                raise ConfigError(f"pqn.{field}: need at least 1, got {getattr(self, field)}")
        for field in ("gamma", "lam", "epsilon", "explore"):
            if not 0 <= getattr(self, field) <= 1:
                raise ConfigError(f"pqn.{field}: must lie in [0, 1], got {getattr(self, field)}")
        if self.reward_clip <= 0:
            raise ConfigError(f"pqn.reward_clip: must be positive, got {self.reward_clip}")

    def epsilon_at(self, progress: float) -> float:
        """The share of random actions when `progress` (0 to 1) of the recording is done."""
        left = max(0.0, 1.0 - progress / self.explore) if self.explore else 0.0
        return self.epsilon + (1.0 - self.epsilon) * left


@dataclass(slots=True)
class Rollout:
    """What T steps of R rows saw, did and got; `ahead` is V of where each step really led."""

    obs: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    ahead: np.ndarray

    @classmethod
    def empty(cls, steps: int, obs: np.ndarray) -> "Rollout":
        shape = (steps, len(obs))
        return cls(
            obs=np.empty((steps, *obs.shape), obs.dtype),
            action=np.empty(shape, np.int64),
            reward=np.empty(shape, np.float32),
            terminated=np.empty(shape, bool),
            truncated=np.empty(shape, bool),
            ahead=np.zeros(shape, np.float32),
        )


class PQN:
    """Owns what learning changes: the network and its optimiser."""

    def __init__(
        self, cfg: PQNConfig, tasks: tuple[Task, ...], task_index: np.ndarray, *, seed: int
    ) -> None:
        self.cfg, self.seed, self.device = cfg, seed, assemble.device()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            body = assemble.encoder(cfg.encoder, (cfg.stack, *tasks[0].frame_shape))
            heads = (HeadSpec(name="q", size=cfg.td.size),)
            actions = tuple(task.actions for task in tasks)
            net = Network(body, cfg.neck, tasks=actions, heads=heads)
        net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.net = net.to(self.device)
        self.optimizer = cfg.optim.build(self.net.parameters())
        self.rollouts = 0
        self._choices = np.array(actions)[task_index]
        self._task = torch.from_numpy(task_index).to(self.device)

    @torch.inference_mode()
    def values(self, obs: np.ndarray, rows: slice | np.ndarray = slice(None)) -> Tensor:
        """Q [r A] of obs [r S *frame] in the given rows; -inf for actions that a task lacks."""
        outputs = self.net(torch.from_numpy(obs).to(self.device), self._task[rows])
        return masked(self.cfg.td.q(outputs["q"]), outputs["available"])

    def act(self, values: Tensor, *, step: int, epsilon: float) -> np.ndarray:
        """Actions [R]: the best ones, but each random with probability epsilon."""
        dice, random = stream(self.seed, "explore", step).random((2, len(values)))
        other = (random * self._choices).astype(np.int64)
        return np.where(dice < epsilon, other, values.argmax(-1).cpu().numpy())

    def learn(self, rollout: Rollout) -> dict[str, float]:
        """Fits Q to the rollout's lambda returns, a few epochs of minibatches.

        Raises:
          DivergedError: the loss is not finite.
        """
        cfg = self.cfg
        parts = (rollout.reward, rollout.terminated, rollout.truncated, rollout.ahead)
        tensors = [torch.from_numpy(part) for part in parts]
        returns = lambda_returns(*tensors, gamma=cfg.gamma, lam=cfg.lam).flatten().to(self.device)
        obs = torch.from_numpy(rollout.obs).flatten(0, 1).to(self.device)
        action = torch.from_numpy(rollout.action).flatten().to(self.device)
        task = self._task.repeat(len(rollout.action))
        loss = norm = torch.zeros(())
        for part in self._minibatches(len(action)):
            outputs = self.net(obs[part], task[part])
            chosen = of_action(outputs["q"], action[part])
            loss = cfg.td.loss(chosen, cfg.td.target_at(returns[part])).mean()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = clip_grad_norm_(self.net.parameters(), cfg.optim.clip or float("inf"))
            self.optimizer.step()
        self.rollouts += 1
        if not bool(torch.isfinite(loss) & torch.isfinite(norm)):
            raise DivergedError(
                f"rollout {self.rollouts}: loss {loss.item()}, gradient norm {norm.item()}; "
                "lower optim.lr"
            )
        return {"loss": loss.item(), "grad_norm": norm.item(), "return": returns.mean().item()}

    def _minibatches(self, size: int) -> Iterator[Tensor]:
        for epoch in range(self.cfg.epochs):
            order = stream(self.seed, "order", self.rollouts, epoch).permutation(size)
            yield from torch.from_numpy(order).to(self.device).split(self.cfg.minibatch)

    def tensors(self) -> dict[str, Tensor]:
        """Weights and moments by name."""
        named = {f"net.{name}": value for name, value in self.net.state_dict().items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            named |= {f"optimizer.{index}.{name}": value for name, value in slots.items()}
        return named

    def load(self, tensors: dict[str, Tensor], *, rollouts: int) -> None:
        """Inverse of `tensors`, after so many rollouts."""
        net = {k.removeprefix("net."): v for k, v in tensors.items() if k.startswith("net.")}
        self.net.load_state_dict(net)
        weights = list(self.net.parameters())
        slots: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".")
                weight = weights[int(index)]
                # The fused kernel wants moments laid out in memory as their weights are.
                like = torch.empty_like(weight) if value.shape == weight.shape else value.clone()
                slots.setdefault(int(index), {})[name] = like.copy_(value)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": slots, "param_groups": groups})
        self.rollouts = rollouts


class Recording:
    """An agent on a stage: rollout after rollout, metrics and checkpoints in `folder`."""

    def __init__(self, stage: Stage, agent: PQN, folder: Path) -> None:
        self.stage, self.agent, self.folder = stage, agent, folder
        self.seconds = 0.0
        self._scores: list[list[float]] = [[] for _ in stage.fleet.tasks]
        self._saved = time.monotonic()

    @property
    def step(self) -> int:
        """Transitions of each task so far."""
        return self.stage.recorded // len(self.stage.fleet.tasks)

    def begin(self) -> None:
        """Starts from nothing."""
        journal.retain(self.folder / METRICS, lambda row: False)
        self.stage.begin()

    def resume(self, state: State) -> None:
        """Goes on from a checkpoint, with tapes that were opened for it.

        Raises:
          DataError: an unfinished episode does not come out as recorded.
        """
        self.agent.load(state.tensors, rollouts=state.scalars["rollouts"])
        self.stage.resume(state.scalars["slot_steps"], read_logs(state))
        self.seconds, self._scores = state.scalars["seconds"], state.scalars["scores"]
        journal.retain(self.folder / METRICS, lambda row: row["step"] <= self.step)
        print(f"resuming the recording at step {self.step:,}", file=sys.stderr)

    def run(self, stop: Stop) -> None:
        """Plays, learns and records to the end.

        Raises:
          Interrupted: a signal came; a checkpoint was written first.
          DivergedError: the loss was not finite.
        """
        began, stage, cfg = time.monotonic() - self.seconds, self.stage, self.agent.cfg
        with (
            contextlib.closing(Journal(self.folder / METRICS)) as log,
            Progress(
                f"collect {', '.join(task.name for task in stage.fleet.tasks)}", stage.total
            ) as bar,
        ):
            while stage.step < stage.length:
                metrics = self._rollout()
                self.seconds = time.monotonic() - began
                for pending, new in zip(self._scores, stage.scores(), strict=True):
                    pending += new
                if self.agent.rollouts % cfg.log_every == 0 or stage.step == stage.length:
                    bar.show(stage.recorded, self._say(log, metrics))
                late = time.monotonic() - self._saved > cfg.checkpoint_every
                if late or stop or stage.step == stage.length:
                    self.save()
                if stop and stage.step < stage.length:
                    raise Interrupted(
                        f"{signal.Signals(stop.number).name}: stopped at step {self.step:,} with a "
                        f"checkpoint in {self.folder}; go on with --resume",
                        number=stop.number,
                    )

    def save(self) -> None:
        """Writes a checkpoint: the agent, every log's episodes so far, and how many rows it has."""
        logs, rows = self.stage.snapshots()
        tensors = self.agent.tensors()
        for slot, log in enumerate(logs):
            tensors |= {f"log.{slot}.{k}": v for k, v in write_log(log).items()}
        scalars = {
            "rollouts": self.agent.rollouts,
            "slot_steps": self.stage.step,
            "rows": rows,
            "seconds": self.seconds,
            "scores": self._scores,
            "threads": torch.get_num_threads(),
        }
        state = State(step=self.step, tensors=tensors, scalars=scalars)
        save_checkpoint(self.folder / CHECKPOINTS, state, keep=2)
        self._saved = time.monotonic()

    def _rollout(self) -> dict[str, float]:
        stage, agent, cfg = self.stage, self.agent, self.agent.cfg
        fleet = stage.fleet
        rollout = Rollout.empty(min(cfg.rollout, stage.length - stage.step), fleet.obs)
        values = agent.values(fleet.obs)
        for t in range(len(rollout.action)):
            epsilon = cfg.epsilon_at(stage.step / stage.length)
            actions = agent.act(values, step=stage.step, epsilon=epsilon)
            rollout.obs[t], rollout.action[t] = fleet.obs, actions
            steps = stage.play(actions)
            rollout.reward[t] = np.clip(steps.reward, -cfg.reward_clip, cfg.reward_clip)
            rollout.terminated[t], rollout.truncated[t] = steps.terminated, steps.truncated
            late = np.flatnonzero(steps.truncated)
            closing = agent.values(fleet.obs[late], late).amax(-1) if len(late) else None
            stage.renew(steps)
            values = agent.values(fleet.obs)
            rollout.ahead[t] = values.amax(-1).cpu()
            if closing is not None:
                rollout.ahead[t, late] = closing.cpu()
        return agent.learn(rollout)

    def _say(self, log: Journal, metrics: dict[str, float]) -> str:
        """Writes a row of metrics, and returns a remark for the progress bar."""
        names = [task.name for task in self.stage.fleet.tasks]
        means = {n: sum(s) / len(s) for n, s in zip(names, self._scores, strict=True) if s}
        counts = {n: len(s) for n, s in zip(names, self._scores, strict=True)}
        epsilon = self.agent.cfg.epsilon_at(self.stage.step / self.stage.length)
        row = {"step": self.step, "seconds": round(self.seconds, 1), "epsilon": epsilon, **metrics}
        log.write(row | {"score": means, "episodes": counts})
        self._scores = [[] for _ in names]
        return "  ".join(f"{name} {mean:,.1f}" for name, mean in means.items())


def write_log(log: ActionLog) -> dict[str, Tensor]:
    """An action log as tensors; checksums as the int64 of the same bits."""
    arrays = pack(log)
    arrays["checksum"] = arrays["checksum"].view(np.int64)
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def read_logs(state: State) -> list[ActionLog]:
    """The action logs of a checkpoint, by slot; the last episode of each is not over."""
    found: dict[int, dict[str, np.ndarray]] = {}
    for key, tensor in state.tensors.items():
        if key.startswith("log."):
            _, slot, name = key.split(".")
            found.setdefault(int(slot), {})[name] = tensor.numpy()
    for arrays in found.values():
        arrays["checksum"] = arrays["checksum"].view(np.uint64)
    return [unpack(found[slot], f"checkpoint, slot {slot}") for slot in range(len(found))]
