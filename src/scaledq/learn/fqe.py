"""What a policy would earn, told from logs alone: fitted Q evaluation of several policies at once.

Q_p(s, a) is fitted to r + gamma * sum_a' pi_p(a' | s') Q_p(s', a'); the value of policy p is
sum_a pi_p(a | s) Q_p(s, a) over states in which episodes begin (Le et al., 2019, algorithm 3,
https://arxiv.org/abs/1903.08738). One network learns it for all policies, and for several
bootstrap replicates that each see every episode a random number of times (Hao et al., 2021,
https://arxiv.org/abs/2102.03607). Shapes: B batch, A actions, P policies, K replicates.
"""

import copy
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from scaledq.core.batch import Batch
from scaledq.core.config import config
from scaledq.core.errors import ConfigError, DivergedError
from scaledq.core.outputs import HeadSpec
from scaledq.core.seeds import stream
from scaledq.learn.learner import follow

Acting = Callable[[Tensor, Tensor], Tensor]
"""(obs [B S *frame], task [B]) -> each policy's probabilities [B P A]."""


@config
class FQEConfig:
    """How long and how the evaluation is fitted."""

    steps: int = 2_000
    batch_size: int = 128
    replicates: int = 16
    """K. The first sees every episode once and is the estimate; the others give its interval."""
    lr: float = 1e-3
    fraction: float = 0.02
    """By how much the target moves to the network after each step."""
    seed: int = 0
    beginnings: int = 256
    """Episodes of each task, at most, whose first states the value is the mean of."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "beginnings"):
            if getattr(self, name) < 1:
                raise ConfigError(f"fqe.{name}: need at least 1, got {getattr(self, name)}")
        if self.replicates < 2 or not self.lr > 0 or not 0 < self.fraction <= 1:
            raise ConfigError(
                "fqe needs replicates >= 2, lr > 0 and fraction in (0, 1], got "
                f"{self.replicates}, {self.lr} and {self.fraction}"
            )

    def caution(self, gamma: float) -> str:
        """What to say where the target moves fewer times than a horizon, 1 / (1 - gamma), has
        decisions: each time it sees about one decision further. Empty where it moves as often."""
        moves, wanted = self.steps * self.fraction, 1 / max(1 - gamma, 1e-6)
        if moves >= wanted:
            return ""
        return (
            f"careful: the target moves {moves:,.0f} times and sees as many decisions ahead; "
            f"gamma {gamma:g} has a horizon of {wanted:,.0f}, and several are better: "
            "raise --steps or --fraction"
        )

    def head(self, policies: int) -> HeadSpec:
        """What the network must answer: a number for each action, policy and replicate."""
        return HeadSpec(name="q", size=policies * self.replicates)

    def weights(self, episodes: Int[np.ndarray, "B"]) -> Float[np.ndarray, "B K"]:
        """How often each replicate sees an episode: 1 for the first, else Poisson of mean 1."""
        known, place = np.unique(episodes, return_inverse=True)
        drawn = [_counts(self.seed, self.replicates, episode) for episode in known.tolist()]
        return np.stack(drawn)[place]


@lru_cache(maxsize=1 << 16)
def _counts(seed: int, replicates: int, episode: int) -> Float[np.ndarray, "K"]:
    counts = stream(seed, "fqe", episode).poisson(1.0, replicates).astype(np.float32)
    counts[0] = 1
    return counts


class FittedQ:
    """The values of P policies, being fitted.

    Args:
      net: answers `cfg.head(P)` for every task.
      acting: what the policies do.
    """

    def __init__(self, net: nn.Module, acting: Acting, cfg: FQEConfig):
        self.net, self.acting, self.cfg = net, acting, cfg
        self.target = copy.deepcopy(net).requires_grad_(False)
        self.optimizer = torch.optim.Adam(net.parameters(), lr=cfg.lr)

    def update(self, batch: Batch, weights: Float[Tensor, "B K"]) -> Float[Tensor, ""]:
        """One step on one-step transitions; returns the mean squared error."""
        with torch.no_grad():
            later = self._values(self.target, batch.next_obs, batch.task)
            goal = batch.reward[:, None, None] + batch.discount[:, None, None] * later
        rows = torch.arange(len(batch))
        q = self._q(self.net, batch.obs, batch.task)[rows, batch.action]
        loss = (weights[:, None, :] * (q - goal) ** 2).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        follow(self.target, self.net, fraction=self.cfg.fraction)
        return loss.detach()

    @torch.no_grad()
    def values(
        self, obs: Shaped[Tensor, "B S *frame"], task: Int[Tensor, "B"]
    ) -> Float[Tensor, "B P K"]:
        """What each policy earns from these states on, in each replicate's eyes."""
        return self._values(self.net, obs, task)

    def _q(self, net: nn.Module, obs: Tensor, task: Tensor) -> Float[Tensor, "B A P K"]:
        return net(obs, task)["q"].unflatten(-1, (-1, self.cfg.replicates))

    def _values(self, net: nn.Module, obs: Tensor, task: Tensor) -> Float[Tensor, "B P K"]:
        # einsum would run over actions that the task lacks too: their probability is 0.
        return torch.einsum("bpa,bapk->bpk", self.acting(obs, task), self._q(net, obs, task))


def probabilities(
    preferences: Float[Tensor, "B A"], *, sampled: bool, epsilon: float
) -> Float[Tensor, "B A"]:
    """What a policy does: its best action or a draw from the softmax, else (epsilon) anything.

    Args:
      preferences: -inf for actions that the task lacks, or that the policy never takes.
    """
    possible = preferences.isfinite()
    if sampled:
        chosen = preferences.softmax(-1)
    else:
        chosen = torch.zeros_like(preferences)
        chosen.scatter_(1, preferences.argmax(-1, keepdim=True), 1.0)
    return (1 - epsilon) * chosen + epsilon * possible / possible.sum(-1, keepdim=True)


def check_finite(loss: Tensor, *, step: int) -> None:
    """Raises DivergedError; waits for the device."""
    if not torch.isfinite(loss):
        raise DivergedError(f"fitted Q evaluation diverged at step {step}: lower fqe.lr")
