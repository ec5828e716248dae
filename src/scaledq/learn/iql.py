"""How values are learnt without ever asking about an action that the data lack.

Implicit Q-learning (Kostrikov et al., 2021), https://arxiv.org/abs/2110.06169, with a softmax
policy over discrete actions. Shapes: B batch, A actions.
"""

from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from scaledq.core.batch import Batch
from scaledq.core.config import by_kind, config
from scaledq.core.errors import ConfigError
from scaledq.core.outputs import HeadSpec, Network, Outputs
from scaledq.learn.bc import Loss, log_likelihood
from scaledq.learn.cql import masked, of_action
from scaledq.learn.td import MSE, TDError


def expectile_loss(error: Float[Tensor, "B"], *, expectile: float) -> Float[Tensor, "B"]:
    """|expectile - 1[error < 0]| * error^2 (eq. 5); error is the target minus the prediction."""
    weight = torch.where(error < 0, 1 - expectile, expectile)
    return weight * error**2


@config
class IQL:
    """V as an upper expectile of Q over the data's actions, and a policy weighted by advantage."""

    kind: Literal["iql"] = "iql"
    td: Annotated[TDError, by_kind] = MSE()
    """How Q is fitted to r + discount * V'."""
    expectile: float = 0.7
    """Nearer to 1, V comes nearer to the best action's value."""
    beta: float = 3.0
    """Inverse temperature of the policy's weights exp(beta * advantage)."""
    max_weight: float = 100.0

    def __post_init__(self) -> None:
        if not 0.5 < self.expectile < 1:
            raise ConfigError(f"objective.expectile must lie in (0.5, 1), got {self.expectile}")
        if not 0 <= self.beta < float("inf"):
            raise ConfigError(f"objective.beta must be 0 or more, got {self.beta}")
        if not self.max_weight >= 1:
            raise ConfigError(f"objective.max_weight must be at least 1, got {self.max_weight}")

    @property
    def bootstraps(self) -> bool:
        """A target network is held."""
        return True

    @property
    def heads(self) -> tuple[HeadSpec, ...]:
        """Q, V, and the policy on layers of its own."""
        return (
            HeadSpec(name="q", size=self.td.size),
            HeadSpec(name="value", size=1, per_action=False),
            HeadSpec(name="policy", size=1, own_branch=True),
        )

    def preferences(self, outputs: Outputs) -> Float[Tensor, "B A"]:
        """The policy's logits; -inf for actions that the task lacks."""
        return masked(outputs["policy"].squeeze(-1), outputs["available"])

    def __call__(self, net: Network, target_net: Network, batch: Batch) -> Loss:
        with torch.no_grad():
            later = net(batch.next_obs, batch.task)["value"].squeeze(-1)
            target = self.td.target_at(batch.reward + batch.discount * later)
            judge = target_net(batch.obs, batch.task)["q"]
            judged = self.td.q(of_action(judge, batch.action))
        outputs = net(batch.obs, batch.task)
        td = self.td.loss(of_action(outputs["q"], batch.action), target)
        advantage = judged - outputs["value"].squeeze(-1)
        value = expectile_loss(advantage, expectile=self.expectile)
        weight = (self.beta * advantage.detach()).exp().clamp(max=self.max_weight)
        logits = outputs["policy"].squeeze(-1)
        nll = -log_likelihood(logits, batch.action, outputs["available"])
        parts = {"td": td, "value": value, "policy": weight * nll, "advantage": advantage}
        return td + value + weight * nll, {name: part.detach() for name, part in parts.items()}
