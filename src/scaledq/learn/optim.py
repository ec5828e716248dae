"""How weights move: Adam as the paper's lineage sets it, and when the target network follows."""

from collections.abc import Iterable
from typing import Literal

from torch import nn
from torch.optim import Adam, AdamW, Optimizer

from scaledq.core.config import config
from scaledq.core.errors import ConfigError
from scaledq.learn.lamb import Lamb


@config
class OptimConfig:
    """Adam, the target network's schedule, and the usual safety nets, all off by default."""

    lr: float = 2e-4
    eps: float = 3.125e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    """Decoupled from the gradient (AdamW) where it is not 0."""
    clip: float | None = None
    """Largest gradient norm; a longer gradient is shortened to it."""
    warmup: int = 0
    """Steps over which the learning rate grows linearly to `lr`."""
    target_every: int = 2_000
    """Steps between two moves of the target network."""
    target_fraction: float = 1.0
    """How far it then moves to the online weights: 1 copies; 0.005 with target_every=1 averages."""
    rule: Literal["adam", "lamb"] = "adam"
    """LAMB scales each layer's step to its weights (You et al., 2020)."""

    def __post_init__(self) -> None:
        if not (self.lr > 0 and self.eps > 0 and self.weight_decay >= 0):
            raise ConfigError(
                "optim needs lr > 0, eps > 0 and weight_decay >= 0, got "
                f"{self.lr}, {self.eps} and {self.weight_decay}"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"optim.betas must lie in [0, 1), got {self.betas}")
        if self.clip is not None and not self.clip > 0:
            raise ConfigError(f"optim.clip must be positive or none, got {self.clip}")
        if self.warmup < 0 or self.target_every < 1:
            raise ConfigError(
                "optim needs warmup >= 0 and target_every >= 1, got "
                f"{self.warmup} and {self.target_every}"
            )
        if not 0 < self.target_fraction <= 1:
            raise ConfigError(
                f"optim.target_fraction must lie in (0, 1], got {self.target_fraction}"
            )

    def lr_at(self, step: int) -> float:
        """The learning rate of the step-th update, counted from 0."""
        return self.lr * min(1.0, (step + 1) / self.warmup) if self.warmup else self.lr

    def build(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """The optimizer of these parameters; frozen ones are left out.

        Fused, because only the fused kernel can be told on the device to skip a step.
        """
        trained = [p for p in parameters if p.requires_grad]
        if not trained:
            raise ConfigError("nothing to train: every parameter of the network is frozen")
        if self.rule == "lamb":
            return Lamb(
                trained,
                lr=self.lr,
                betas=self.betas,
                eps=self.eps,
                weight_decay=self.weight_decay,
            )
        kind = AdamW if self.weight_decay else Adam
        return kind(
            trained,
            lr=self.lr,
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay,
            fused=True,
        )
