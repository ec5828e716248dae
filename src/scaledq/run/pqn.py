"""PQN: an agent that learns from each rollout that it plays, and then forgets it.

Parallel Q-learning (Gallici et al., 2024, https://arxiv.org/abs/2407.04811): no replay, no target
network; layer norm, many environments and Q(lambda) targets keep it stable. One network over all
tasks, one head each. Shapes: T steps of a rollout, R rows (environments of all tasks), S A as ever.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from scaledq.core.config import by_kind, config
from scaledq.core.errors import ConfigError, DivergedError
from scaledq.core.outputs import HeadSpec
from scaledq.core.seeds import stream
from scaledq.learn.cql import masked, of_action
from scaledq.learn.optim import OptimConfig
from scaledq.learn.returns import lambda_returns
from scaledq.learn.td import MSE, TDError
from scaledq.nets.head import NeckConfig, Network
from scaledq.nets.nature import NatureConfig
from scaledq.run.checkpoint import State
from scaledq.run.config import Encoder
from scaledq.run.explore import Explorer, check_zeta, epsilon_at
from scaledq.run.stage import Stage


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
    zeta: float | None = None
    """A random action lasts n steps with a probability as n ** -zeta, 2 in Dabney et al. (2021);
    none: one step. Where only a long way in one direction pays, as in Freeway, it finds that."""
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
        check_zeta("pqn.zeta", self.zeta)
        if self.reward_clip <= 0:
            raise ConfigError(f"pqn.reward_clip: must be positive, got {self.reward_clip}")

    @property
    def heads(self) -> tuple[HeadSpec, ...]:
        """What the network must answer."""
        return (HeadSpec(name="q", size=self.td.size),)

    def epsilon_at(self, progress: float) -> float:
        """The share of random actions when `progress` (0 to 1) of the recording is done."""
        return epsilon_at(progress, last=self.epsilon, explore=self.explore)


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
    """Owns what learning changes: the network and its optimiser.

    Args:
      net: Q of all tasks, on the device where it is to learn.
      task_index: int64 [R], the task of each row that it plays.
      seed: of exploration and of the minibatches' order.
    """

    def __init__(self, cfg: PQNConfig, net: Network, task_index: np.ndarray, *, seed: int) -> None:
        self.cfg, self.net, self.seed = cfg, net, seed
        self.device = next(net.parameters()).device
        self.optimizer = cfg.optim.build(net.parameters())
        self.rollouts = 0
        choices = net.available.sum(-1).cpu().numpy()[task_index]
        self._explorer = Explorer(choices, seed=seed, zeta=cfg.zeta)
        self._task = torch.from_numpy(task_index).to(self.device)
        self._metrics: dict[str, float] = {}

    def begin(self, stage: Stage) -> None:
        """There is nothing to prepare."""

    def round(self, stage: Stage) -> None:
        """Plays a rollout and learns from it; raises DivergedError as `learn`."""
        self._metrics = self.learn(self._play(stage))

    def due(self) -> bool:
        """Every `log_every` rollouts."""
        return self.rollouts % self.cfg.log_every == 0

    def late(self, seconds: float) -> bool:
        """A checkpoint is due, so long after the last one."""
        return seconds > self.cfg.checkpoint_every

    def step(self, stage: Stage) -> int:
        """Transitions of each task so far."""
        return stage.recorded // len(stage.fleet.tasks)

    def metrics(self, stage: Stage) -> dict[str, float | int]:
        """Of the last rollout."""
        return {"epsilon": self.cfg.epsilon_at(stage.step / stage.length), **self._metrics}

    @torch.inference_mode()
    def values(self, obs: np.ndarray, rows: slice | np.ndarray = slice(None)) -> Tensor:
        """Q [r A] of obs [r S *frame] in the given rows; -inf for actions that a task lacks."""
        outputs = self.net(torch.from_numpy(obs).to(self.device), self._task[rows])
        return masked(self.cfg.td.q(outputs["q"]), outputs["available"])

    def act(self, values: Tensor, *, step: int, epsilon: float) -> np.ndarray:
        """Actions [R]: the best ones, but each random with probability epsilon."""
        return self._explorer.act(values, step=step, epsilon=epsilon)

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

    def _play(self, stage: Stage) -> Rollout:
        cfg, fleet = self.cfg, stage.fleet
        rollout = Rollout.empty(min(cfg.rollout, stage.length - stage.step), fleet.obs)
        values = self.values(fleet.obs)
        for t in range(len(rollout.action)):
            epsilon = cfg.epsilon_at(stage.step / stage.length)
            actions = self.act(values, step=stage.step, epsilon=epsilon)
            rollout.obs[t], rollout.action[t] = fleet.obs, actions
            steps = stage.play(actions)
            rollout.reward[t] = np.clip(steps.reward, -cfg.reward_clip, cfg.reward_clip)
            rollout.terminated[t], rollout.truncated[t] = steps.terminated, steps.truncated
            late = np.flatnonzero(steps.truncated)
            closing = self.values(fleet.obs[late], late).amax(-1) if len(late) else None
            stage.renew(steps)
            values = self.values(fleet.obs)
            rollout.ahead[t] = values.amax(-1).cpu()
            if closing is not None:
                rollout.ahead[t, late] = closing.cpu()
        return rollout

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

    def scalars(self) -> dict[str, Any]:
        """What else a checkpoint keeps."""
        return {"rollouts": self.rollouts, **self._explorer.scalars()}

    def load(self, state: State) -> None:
        """Goes on from a checkpoint of `tensors` and `scalars`."""
        tensors = state.tensors
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
        self.rollouts = state.scalars["rollouts"]
        self._explorer.load(state.scalars)

    def resume(self, stage: Stage) -> None:
        """The stage goes on where the checkpoint was taken: nothing to do."""
