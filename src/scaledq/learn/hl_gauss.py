"""How a scalar target becomes a distribution over bins (Farebrother et al., 2024).

https://arxiv.org/abs/2403.03950, sections 3.1 and 3.2. Shapes: B batch, Z bins.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from scaledq.core.config import config
from scaledq.core.errors import ConfigError
from scaledq.learn.c51 import check_support, cross_entropy, project


def gaussian_bins(
    value: Float[Tensor, "B"], edges: Float[Tensor, "E"], *, sigma: float
) -> Float[Tensor, "B Z"]:
    """Mass of N(value, sigma^2) in each of the Z = E - 1 bins, renormalised over the support.

    A value beyond the support counts as the nearest end, where half of the mass is left.
    """
    value = value.clamp(edges[0], edges[-1])
    below = torch.erf((edges - value[:, None]) / (2**0.5 * sigma))
    return below.diff(dim=-1) / (below[:, -1:] - below[:, :1])


@config
class HLGauss:
    """Cross-entropy to a Gaussian around the scalar target, spread over a few bins."""

    kind: Literal["hl_gauss"] = "hl_gauss"
    bins: int = 51
    v_min: float = -10.0
    v_max: float = 10.0
    sigma: float = 0.75
    """Standard deviation of the Gaussian in bin widths; at 0.75 most mass lies in six bins."""

    def __post_init__(self) -> None:
        check_support("bins", size=self.bins, v_min=self.v_min, v_max=self.v_max)
        if not 0 < self.sigma < float("inf"):
            raise ConfigError(f"objective.td.sigma must be positive, got {self.sigma}; try two_hot")

    @property
    def size(self) -> int:
        """Outputs an action."""
        return self.bins

    def edges(self, like: Tensor) -> Float[Tensor, "E"]:
        """The bins' edges, one more than bins, where `like` lives."""
        return torch.linspace(
            self.v_min, self.v_max, self.bins + 1, dtype=like.dtype, device=like.device
        )

    def q(self, logits: Float[Tensor, "*B Z"]) -> Float[Tensor, "*B"]:
        """The mean of the bins' centres."""
        probs = logits.softmax(-1)
        edges = self.edges(probs)
        return (probs * (edges[1:] + edges[:-1]) / 2).sum(-1)

    def target(
        self,
        next_logits: Float[Tensor, "B Z"],
        reward: Float[Tensor, "B"],
        discount: Float[Tensor, "B"],
    ) -> Float[Tensor, "B Z"]:
        """Probabilities around the scalar r + discount * Q'."""
        return self.target_at(reward + discount * self.q(next_logits))

    def target_at(self, value: Float[Tensor, "B"]) -> Float[Tensor, "B Z"]:
        """The target when the return is known to be `value`."""
        width = (self.v_max - self.v_min) / self.bins
        return gaussian_bins(value, self.edges(value), sigma=self.sigma * width)

    def loss(
        self, logits: Float[Tensor, "B Z"], target: Float[Tensor, "B Z"]
    ) -> Float[Tensor, "B"]:
        """Cross-entropy of the target under the prediction."""
        return cross_entropy(logits, target)


@config
class TwoHot:
    """Cross-entropy to the two support points around the scalar target, by nearness."""

    kind: Literal["two_hot"] = "two_hot"
    atoms: int = 51
    v_min: float = -10.0
    v_max: float = 10.0

    def __post_init__(self) -> None:
        check_support("atoms", size=self.atoms, v_min=self.v_min, v_max=self.v_max)

    @property
    def size(self) -> int:
        """Outputs an action."""
        return self.atoms

    def support(self, like: Tensor) -> Float[Tensor, "Z"]:
        """The atoms, where `like` lives."""
        return torch.linspace(
            self.v_min, self.v_max, self.atoms, dtype=like.dtype, device=like.device
        )

    def q(self, logits: Float[Tensor, "*B Z"]) -> Float[Tensor, "*B"]:
        """The mean of the atoms."""
        probs = logits.softmax(-1)
        return (probs * self.support(probs)).sum(-1)

    def target(
        self,
        next_logits: Float[Tensor, "B Z"],
        reward: Float[Tensor, "B"],
        discount: Float[Tensor, "B"],
    ) -> Float[Tensor, "B Z"]:
        """Probabilities of the two atoms around r + discount * Q'."""
        return self.target_at(reward + discount * self.q(next_logits))

    def target_at(self, value: Float[Tensor, "B"]) -> Float[Tensor, "B Z"]:
        """The target when the return is known to be `value`."""
        return project(value[:, None], torch.ones_like(value)[:, None], self.support(value))

    def loss(
        self, logits: Float[Tensor, "B Z"], target: Float[Tensor, "B Z"]
    ) -> Float[Tensor, "B"]:
        """Cross-entropy of the target under the prediction."""
        return cross_entropy(logits, target)
