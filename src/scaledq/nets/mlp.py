"""Fully connected layers for tasks whose frames are vectors, or tiny pictures taken as such."""

from math import prod
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from scaledq.core.config import config
from scaledq.core.errors import ConfigError


@config
class MLPConfig:
    """Flattens the whole stack of frames; the neck needs `embedding="none"`."""

    kind: Literal["mlp"] = "mlp"
    widths: tuple[int, ...] = (256, 256)
    layer_norm: bool = False
    """Normalises each layer before its ReLU."""

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1:
            raise ConfigError(f"encoder.widths: need one or more of at least 1, got {self.widths}")


class MLP(nn.Module):
    """[B S *frame] -> [B D], D being the last width; torch's own initialisation."""

    def __init__(self, cfg: MLPConfig, in_shape: tuple[int, ...]):
        super().__init__()
        self.layers, size = nn.Sequential(nn.Flatten()), prod(in_shape)
        for width in cfg.widths:
            self.layers.append(nn.Linear(size, width))
            if cfg.layer_norm:
                self.layers.append(nn.LayerNorm(width))
            self.layers.append(nn.ReLU(inplace=True))
            size = width
        self.out_shape = (size,)

    def forward(self, x: Float[Tensor, "B S *frame"]) -> Float[Tensor, "B D"]:
        return self.layers(x)
