"""The pieces that several encoders are built from: convolutions, pooling, sizes of maps.

Every encoder is an `nn.Module` `(x float [B S *frame]) -> [B C H W]`, or `[B D]` for vectors; its
`out_shape` says which, without the batch. `in_shape` is (S, *frame).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from scaledq.core.errors import ConfigError


class StandardisedConv2d(nn.Conv2d):
    """A convolution whose weights have mean 0 and variance 1 for each output channel.

    Qiao et al. (2019), https://arxiv.org/abs/1903.10520; BiT pairs it with group norm.
    """

    def forward(self, input: Float[Tensor, "B S H W"]) -> Float[Tensor, "B C h w"]:
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), correction=0, keepdim=True)
        weight = (self.weight - mean) * torch.rsqrt(variance + 1e-10)
        return self._conv_forward(input, weight, self.bias)


def conv(
    channels_in: int, channels: int, kernel: int, *, stride: int = 1, standardised: bool = False
) -> nn.Conv2d:
    """A convolution without bias, kaiming-normal over its inputs, that a norm follows.

    Padded so that an odd kernel leaves ceil(size / stride) cells, and 8x8 of stride 4 size // 4.
    """
    kind = StandardisedConv2d if standardised else nn.Conv2d
    padding = (kernel - stride + 1) // 2
    layer = kind(channels_in, channels, kernel, stride=stride, padding=padding, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
    return layer


class HalvingPool(nn.Module):
    """3x3 max-pooling of stride 2 that pads as TensorFlow's SAME: ceil(size / 2) cells are left.

    An even side is padded at its end only, an odd one at both.
    """

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
        padding = (x.shape[2] % 2, x.shape[3] % 2)
        return F.max_pool2d(x, 3, 2, padding=padding, ceil_mode=True)


class Coloured(nn.Module):
    """An encoder of [B S*C H W] for pictures in colour, [B S H W C]: each colour is a channel."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder
        self.out_shape = encoder.out_shape

    def forward(self, x: Float[Tensor, "B S H W C"]) -> Float[Tensor, "B ..."]:
        return self.encoder(x.movedim(-1, 2).flatten(1, 2))


def halved(size: tuple[int, int]) -> tuple[int, int]:
    """The map that HalvingPool leaves, and any odd-kernel `conv` of stride 2."""
    return (size[0] + 1) // 2, (size[1] + 1) // 2


def picture(in_shape: tuple[int, ...], *, encoder: str) -> tuple[int, int, int]:
    """Takes `in_shape` for a stack of pictures: (S, H, W).

    Raises:
      ConfigError: frames that are not pictures.
    """
    if len(in_shape) != 3:
        raise ConfigError(
            f"encoder: {encoder} wants frames of two axes (height, width), got {in_shape[1:]}; "
            "take kind 'mlp' for vectors"
        )
    return in_shape[0], in_shape[1], in_shape[2]


def floats(obs: Shaped[Tensor, "B S *frame"], dtype: torch.dtype) -> Float[Tensor, "B S *frame"]:
    """What an encoder sees: uint8 divided by 255, all others taken as they are."""
    x = obs.to(dtype)
    return x.div_(255) if obs.dtype == torch.uint8 else x
