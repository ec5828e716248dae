"""The convolutions of Mnih et al. (2015): fast, and what single-game baselines use."""

from itertools import pairwise
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from scaledq.core.config import config
from scaledq.core.errors import ConfigError
from scaledq.nets.blocks import picture

KERNELS, STRIDES = (8, 4, 3), (4, 2, 1)
"""Without padding: 84 -> 20 -> 9 -> 7."""


@config
class NatureConfig:
    """Published with a neck of `embedding="none"`, one layer of 512 units and no unit norm."""

    kind: Literal["nature"] = "nature"
    width: int = 32
    """Channels of the first layer; the other two have twice as many."""
    layer_norm: bool = False
    """Normalises each map over its channels and cells before the ReLU, one scale a channel (PQN:
    Gallici et al., 2024)."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ConfigError(f"encoder.width: must be at least 1, got {self.width}")


class Nature(nn.Module):
    """[B S H W] -> [B 2*width h w], 7x7 of 84x84; torch's own initialisation of convolutions.

    Raises:
      ConfigError: frames that are not pictures, or too small.
    """

    def __init__(self, cfg: NatureConfig, in_shape: tuple[int, ...]):
        super().__init__()
        stack, *frame = picture(in_shape, encoder="the Nature network")
        channels = (stack, cfg.width, 2 * cfg.width, 2 * cfg.width)
        self.layers, size = nn.Sequential(), frame
        for (source, target), kernel, stride in zip(
            pairwise(channels), KERNELS, STRIDES, strict=True
        ):
            self.layers.append(nn.Conv2d(source, target, kernel, stride=stride))
            if cfg.layer_norm:
                self.layers.append(nn.GroupNorm(1, target))
            self.layers.append(nn.ReLU(inplace=True))
            size = [(side - kernel) // stride + 1 for side in size]
        if min(size) < 1:
            raise ConfigError(
                f"encoder.kind: 'nature' wants frames of at least 36x36, got {frame[0]}x{frame[1]};"
                " take kind 'resnet' with stem 'small'"
            )
        self.out_shape = (channels[-1], size[0], size[1])

    def forward(self, x: Float[Tensor, "B S H W"]) -> Float[Tensor, "B C h w"]:
        return self.layers(x)
