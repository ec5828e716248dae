"""What a TD error is: how outputs become Q, how a target is made, what a sample loses.

Every TD error is a config with `size` (outputs an action), `q(outputs [*B Z]) -> [*B]`,
`target(next_outputs [B Z], reward, discount)`, `target_at(value [B])` and
`loss(outputs [B Z], target) -> [B]`. Shapes: B batch, N tasks, Z outputs an action.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from scaledq.core.config import config
from scaledq.core.errors import ConfigError
from scaledq.learn.c51 import C51
from scaledq.learn.hl_gauss import HLGauss, TwoHot


@config
class MSE:
    """Squared error to the scalar r + discount * Q', on rewards of one scale for every task."""

    kind: Literal["mse"] = "mse"
    unitary: bool = True
    """Divide each task's rewards by their running standard deviation and sum the tasks' losses
    (Kurin et al., 2022, as the paper's section 5.3 does)."""
    huber: float | None = None
    """Errors e beyond it lose huber * (|e| - huber / 2) and those below e^2 / 2; none: e^2."""

    def __post_init__(self) -> None:
        if self.huber is not None and not 0 < self.huber < float("inf"):
            raise ConfigError(f"objective.td.huber must be positive or none, got {self.huber}")

    @property
    def size(self) -> int:
        """Outputs an action."""
        return 1

    def q(self, outputs: Float[Tensor, "*B 1"]) -> Float[Tensor, "*B"]:
        """The output itself."""
        return outputs.squeeze(-1)

    def target(
        self,
        next_outputs: Float[Tensor, "B 1"],
        reward: Float[Tensor, "B"],
        discount: Float[Tensor, "B"],
    ) -> Float[Tensor, "B"]:
        """r + discount * Q'."""
        return reward + discount * self.q(next_outputs)

    def target_at(self, value: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
        """The target when the return is known to be `value`."""
        return value

    def loss(self, outputs: Float[Tensor, "B 1"], target: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
        """(Q - target)^2, or Huber's loss."""
        if self.huber is None:
            return F.mse_loss(self.q(outputs), target, reduction="none")
        return F.huber_loss(self.q(outputs), target, reduction="none", delta=self.huber)


@config
class QuantileRegression:
    """Quantiles of the return at (i + 1/2) / Z, by the quantile Huber loss (Dabney et al., 2018).

    https://arxiv.org/abs/1710.10044, eqs. 9 and 10, algorithm 1.
    """

    kind: Literal["quantile"] = "quantile"
    quantiles: int = 200
    kappa: float = 1.0
    """Errors below it are squared, above it linear."""

    def __post_init__(self) -> None:
        if self.quantiles < 1:
            raise ConfigError(f"objective.td.quantiles must be at least 1, got {self.quantiles}")
        if not 0 < self.kappa < float("inf"):
            raise ConfigError(f"objective.td.kappa must be positive, got {self.kappa}")

    @property
    def size(self) -> int:
        """Outputs an action."""
        return self.quantiles

    def q(self, outputs: Float[Tensor, "*B Z"]) -> Float[Tensor, "*B"]:
        """The mean of the quantiles."""
        return outputs.mean(-1)

    def target(
        self,
        next_outputs: Float[Tensor, "B Z"],
        reward: Float[Tensor, "B"],
        discount: Float[Tensor, "B"],
    ) -> Float[Tensor, "B Z"]:
        """r + discount * each of the next quantiles."""
        return reward[:, None] + discount[:, None] * next_outputs

    def target_at(self, value: Float[Tensor, "B"]) -> Float[Tensor, "B 1"]:
        """The target when the return is known to be `value`."""
        return value[:, None]

    def loss(
        self, outputs: Float[Tensor, "B Z"], target: Float[Tensor, "B M"]
    ) -> Float[Tensor, "B"]:
        """Summed over predicted quantiles, averaged over the target's."""
        levels = torch.arange(self.quantiles, dtype=outputs.dtype, device=outputs.device)
        levels = (levels + 0.5) / self.quantiles
        error = target[:, None, :] - outputs[:, :, None]
        huber = F.huber_loss(error, torch.zeros_like(error), reduction="none", delta=self.kappa)
        weight = (levels[:, None] - (error.detach() < 0).to(error.dtype)).abs()
        return (weight * huber / self.kappa).mean(-1).sum(-1)


TDError = C51 | MSE | HLGauss | TwoHot | QuantileRegression


def reward_moments(
    reward: Float[Tensor, "B"], task: Int[Tensor, "B"], *, tasks: int
) -> Float[Tensor, "3 N"]:
    """Count, sum and sum of squares of each task's rewards, in float64; batches add up."""
    wide = reward.double()
    parts = torch.stack([torch.ones_like(wide), wide, wide**2])
    return parts @ F.one_hot(task, tasks).double()


def reward_deviation(moments: Float[Tensor, "3 N"]) -> Float[Tensor, "N"]:
    """Standard deviation of each task's rewards; 1 where they have not varied yet.

    Unitary scaling divides by it and does not subtract the mean (Kurin et al., 2022,
    https://arxiv.org/abs/2201.04122).
    """
    mean, square = moments[1:] / moments[0].clamp(min=1)
    deviation = (square - mean**2).clamp(min=0).sqrt()
    return torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation))
