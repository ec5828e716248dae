"""How values are learnt over likely actions only (Fujimoto et al., 2019; appendix B.2).

Discrete BCQ, https://arxiv.org/abs/1910.01708, algorithm 1. Shapes: B batch, A actions.
"""

from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from scaledq.core.batch import Batch
from scaledq.core.config import by_kind, config
from scaledq.core.errors import ConfigError
from scaledq.core.outputs import HeadSpec, Network, Outputs
from scaledq.learn.bc import Loss, log_likelihood
from scaledq.learn.c51 import C51
from scaledq.learn.cql import masked, of_action
from scaledq.learn.td import TDError


def likely(
    logits: Float[Tensor, "B A"], available: Bool[Tensor, "B A"], *, threshold: float
) -> Bool[Tensor, "B A"]:
    """Actions at least `threshold` times as probable as the most probable one."""
    relative = masked(logits, available)
    relative = (relative - relative.amax(-1, keepdim=True)).exp()
    return (relative >= threshold) & available


@config
class DiscreteBCQ:
    """Q-learning whose greedy action must be likely under a cloned behaviour.

    The published loss has td = MSE(huber=1.0); the default is this package's usual TD error, so
    that a comparison changes one thing.
    """

    kind: Literal["bcq"] = "bcq"
    td: Annotated[TDError, by_kind] = C51()
    threshold: float = 0.3
    """0 is Q-learning with a double target, 1 acts like cloning."""
    penalty: float = 0.01
    """Weight of the behaviour's mean squared logit."""

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ConfigError(f"objective.threshold must lie in [0, 1], got {self.threshold}")
        if not 0 <= self.penalty < float("inf"):
            raise ConfigError(f"objective.penalty must be 0 or more, got {self.penalty}")

    @property
    def bootstraps(self) -> bool:
        """A target network is held."""
        return True

    @property
    def heads(self) -> tuple[HeadSpec, ...]:
        """Q, and the behaviour on layers of its own."""
        return (
            HeadSpec(name="q", size=self.td.size),
            HeadSpec(name="behaviour", size=1, own_branch=True),
        )

    def preferences(self, outputs: Outputs) -> Float[Tensor, "B A"]:
        """Q; -inf for actions that are unlikely, or that the task lacks."""
        logits = outputs["behaviour"].squeeze(-1)
        allowed = likely(logits, outputs["available"], threshold=self.threshold)
        return masked(self.td.q(outputs["q"]), allowed)

    def __call__(self, net: Network, target_net: Network, batch: Batch) -> Loss:
        with torch.no_grad():
            best = self.preferences(net(batch.next_obs, batch.task)).argmax(-1)
            next_outputs = of_action(target_net(batch.next_obs, batch.task)["q"], best)
            target = self.td.target(next_outputs, batch.reward, batch.discount)
        outputs = net(batch.obs, batch.task)
        td = self.td.loss(of_action(outputs["q"], batch.action), target)
        nll, squares = self._behaviour(outputs, batch.action)
        loss = td + nll + self.penalty * squares
        return loss, {"td": td.detach(), "nll": nll.detach()}

    def _behaviour(self, outputs: Outputs, action: Int[Tensor, "B"]) -> tuple[Tensor, Tensor]:
        logits, available = outputs["behaviour"].squeeze(-1), outputs["available"]
        squares = (logits**2).where(available, 0).sum(-1) / available.sum(-1)
        return -log_likelihood(logits, action, available), squares
