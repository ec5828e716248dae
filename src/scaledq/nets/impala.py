"""The IMPALA encoder (Espeholt et al., 2018), in Dopamine's layout, at any width and depth.

A stack is a 3x3 convolution, a max-pooling that halves the map and residual blocks of two 3x3
convolutions each; no norm anywhere.
"""

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from scaledq.core.config import config
from scaledq.core.errors import ConfigError
from scaledq.nets.blocks import HalvingPool, halved, picture


@config
class ImpalaConfig:
    """Widths 1 to 16 of the base network widen (16, 32, 32). The CQL baseline of Lee et al. (2022)
    names its sizes (stacks, channels): (5, 128) is `channels=(128,) * 5`; so are (10, 256),
    (5, 512) and (10, 512), of about 5, 30, 60 and 120 M parameters."""

    kind: Literal["impala"] = "impala"
    channels: tuple[int, ...] = (16, 32, 32)
    """Of each stack; their number is the depth."""
    width: int = 1
    """Multiplies all channels (Dopamine's nn_scale)."""
    residual_blocks: int = 2
    """In each stack."""

    def __post_init__(self) -> None:
        if not self.channels or min(self.channels) < 1:
            raise ConfigError(f"encoder.channels: need one or more of at least 1: {self.channels}")
        if self.width < 1 or self.residual_blocks < 0:
            raise ConfigError(
                "encoder: need width >= 1 and residual_blocks >= 0, got "
                f"{self.width} and {self.residual_blocks}"
            )


class Residual(nn.Module):
    """x + conv(relu(conv(relu(x))))."""

    def __init__(self, channels: int):
        super().__init__()
        self.first, self.second = _conv(channels, channels), _conv(channels, channels)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return x + self.second(F.relu(self.first(F.relu(x))))


class Impala(nn.Module):
    """[B S H W] -> [B C h w]: each stack halves the map, rounding up; one cell stays one.

    The deep members of the family thus go on at 1x1, as their published sizes require, so no frame
    is too small.

    Raises:
      ConfigError: frames that are not pictures.
    """

    def __init__(self, cfg: ImpalaConfig, in_shape: tuple[int, ...]):
        super().__init__()
        channels, *frame = picture(in_shape, encoder="IMPALA")
        size = frame[0], frame[1]
        self.stacks = nn.Sequential()
        for wanted in cfg.channels:
            residuals = [Residual(wanted * cfg.width) for _ in range(cfg.residual_blocks)]
            first = _conv(channels, wanted * cfg.width)
            self.stacks.append(nn.Sequential(first, HalvingPool(), *residuals))
            channels, size = wanted * cfg.width, halved(size)
        self.out_shape = (channels, *size)

    def forward(self, x: Float[Tensor, "B S H W"]) -> Float[Tensor, "B C h w"]:
        return F.relu(self.stacks(x))


def _conv(channels_in: int, channels: int) -> nn.Conv2d:
    """3x3, biased; xavier-uniform weights and zero biases, as Dopamine starts them."""
    layer = nn.Conv2d(channels_in, channels, 3, padding=1)
    nn.init.xavier_uniform_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
