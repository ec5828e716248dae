"""How a distribution of returns on fixed atoms is learnt (Bellemare et al., 2017).

Shapes: B batch, A actions, Z atoms.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from scaledq.core.config import config
from scaledq.core.errors import ConfigError


def project(
    atoms: Float[Tensor, "B Z"], probs: Float[Tensor, "B Z"], support: Float[Tensor, "M"]
) -> Float[Tensor, "B M"]:
    """Moves the mass `probs` at `atoms` onto the evenly spaced `support`.

    Mass between two support points is split linearly between them; mass beyond
    an end lands on that end. Bellemare et al. (2017), https://arxiv.org/abs/1707.06887, eq. 7.
    """
    last = len(support) - 1
    spacing = (support[-1] - support[0]) / last  # of neighbours, it would carry more rounding
    place = (atoms.clamp(support[0], support[-1]) - support[0]) / spacing
    below = place.nan_to_num(0).floor().clamp(0, last - 1)  # NaN must stay NaN, not index
    share = place - below  # of the point above
    out = probs.new_zeros(len(probs), len(support))
    out.scatter_add_(1, below.long(), probs * (1 - share))
    return out.scatter_add_(1, below.long() + 1, probs * share)


def cross_entropy(logits: Float[Tensor, "B Z"], target: Float[Tensor, "B Z"]) -> Float[Tensor, "B"]:
    """Of the distribution `target` under softmax(logits), in nats."""
    return -(target * logits.log_softmax(-1)).sum(-1)


def check_support(name: str, *, size: int, v_min: float, v_max: float) -> None:
    """Raises ConfigError unless at least two points or bins lie between v_min < v_max."""
    if size < 2:
        raise ConfigError(f"objective.td.{name} must be at least 2, got {size}")
    if not -float("inf") < v_min < v_max < float("inf"):
        raise ConfigError(
            f"objective.td.v_min must be below v_max and both finite, got {v_min}, {v_max}"
        )


@config
class C51:
    """Cross-entropy to the projected distribution of r + discount * Z'; Q is its mean."""

    kind: Literal["c51"] = "c51"
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
        """The mean return."""
        probs = logits.softmax(-1)
        return (probs * self.support(probs)).sum(-1)

    def target(
        self,
        next_logits: Float[Tensor, "B Z"],
        reward: Float[Tensor, "B"],
        discount: Float[Tensor, "B"],
    ) -> Float[Tensor, "B Z"]:
        """Probabilities of the backed-up return on the support (eq. 7)."""
        atoms = reward[:, None] + discount[:, None] * self.support(reward)
        return project(atoms, next_logits.softmax(-1).to(atoms.dtype), self.support(reward))

    def target_at(self, value: Float[Tensor, "B"]) -> Float[Tensor, "B Z"]:
        """The target when the return is known to be `value`."""
        return project(value[:, None], torch.ones_like(value)[:, None], self.support(value))

    def loss(
        self, logits: Float[Tensor, "B Z"], target: Float[Tensor, "B Z"]
    ) -> Float[Tensor, "B"]:
        """Cross-entropy of the target under the prediction."""
        return cross_entropy(logits, target)
