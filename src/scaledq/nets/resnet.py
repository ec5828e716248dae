"""ResNet 8-152 with group norm: the paper's encoder (section 4), and one small enough for a laptop.

The paper names depths and group norm only. Block order, initialisation and the four groups are
those of its citation for the change (PTR, Kumar et al., 2022); the strides leave an 84x84 frame a
6x6 map, on which the published parameter totals come out.
"""

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from scaledq.core.config import config
from scaledq.core.errors import ConfigError
from scaledq.nets.blocks import HalvingPool, conv, halved, picture

STAGES = {
    8: (1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
"""Blocks in each stage: He et al. (2016), table 1; 8 is the smallest of their CIFAR networks."""


@config
class ResNetConfig:
    """`depth=8, width=16, stem="patch"` is the network of small budgets: 16, 32, 64 channels."""

    kind: Literal["resnet"] = "resnet"
    depth: Literal[8, 18, 34, 50, 101, 152] = 34
    """Up to 34 of basic blocks (two 3x3), above of bottlenecks (1x1, 3x3, 1x1)."""
    width: int = 64
    """Channels of the first stage; each further stage doubles them."""
    groups: int | None = None
    """Of every group norm; None: 4 (PTR), or 32 (BiT) where weights are standardised."""
    weight_standardised: bool = False
    """Standardises convolution weights, with norm eps 1e-4, as BiT (Kolesnikov et al., 2020)."""
    stem: Literal["paper", "small", "patch"] = "paper"
    """paper: 7x7 of stride 2, then max-pooling of stride 2 (84 -> 42 -> 21). patch: one 8x8 of
    stride 4 (84 -> 21). small: one 3x3 of stride 1, for frames of a few dozen pixels."""
    strides: tuple[int, int, int, int] = (1, 2, 2, 1)
    """Of the stages: 21 -> 21 -> 11 -> 6 -> 6. PTR has (1, 2, 1, 1), which ends on 11x11, and
    ResNet v1 (1, 2, 2, 2), on 3x3. Depth 8 has three stages and takes the first three."""

    def __post_init__(self) -> None:
        if self.width < 1 or self.norm_groups < 1 or self.width % self.norm_groups:
            raise ConfigError(
                f"encoder.width: {self.width} channels do not split into {self.norm_groups} "
                "groups; choose a multiple, or set encoder.groups"
            )
        if any(stride not in (1, 2) for stride in self.strides):
            raise ConfigError(f"encoder.strides: each must be 1 or 2, got {self.strides}")

    @property
    def norm_groups(self) -> int:
        if self.groups is not None:
            return self.groups
        return 32 if self.weight_standardised else 4


class Block(nn.Module):
    """relu(branch(x) + shortcut(x)): the order of ResNet v1."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module):
        super().__init__()
        self.branch, self.shortcut = branch, shortcut

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B c h w"]:
        return F.relu(self.branch(x) + self.shortcut(x), inplace=True)


class ResNet(nn.Module):
    """[B S H W] -> [B C h w]: a 16th of the frame in the default layout; see `out_shape`.

    Raises:
      ConfigError: frames that are not pictures, or too small for the strides.
    """

    def __init__(self, cfg: ResNetConfig, in_shape: tuple[int, ...]):
        super().__init__()
        stack, *frame = picture(in_shape, encoder=f"ResNet-{cfg.depth}")
        self.stem = _stem(cfg, stack)
        self.stages = nn.Sequential()
        channels = cfg.width
        for index, blocks in enumerate(STAGES[cfg.depth]):
            width, layers = cfg.width * 2**index, []
            for block in range(blocks):
                stride = cfg.strides[index] if block == 0 else 1
                layers.append(_block(cfg, channels, width, stride=stride))
                channels = width * _expansion(cfg)
            self.stages.append(nn.Sequential(*layers))
        self.out_shape = (channels, *_map(cfg, (frame[0], frame[1])))

    def forward(self, x: Float[Tensor, "B S H W"]) -> Float[Tensor, "B C h w"]:
        return self.stages(self.stem(x))


def _expansion(cfg: ResNetConfig) -> int:
    return 1 if cfg.depth < 50 else 4


def _stem(cfg: ResNetConfig, stack: int) -> nn.Sequential:
    kernel, stride = {"paper": (7, 2), "patch": (8, 4), "small": (3, 1)}[cfg.stem]
    layers = _conv_norm(cfg, stack, cfg.width, kernel, stride=stride)
    layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers, *([HalvingPool()] if cfg.stem == "paper" else []))


def _conv_norm(
    cfg: ResNetConfig, channels_in: int, channels: int, kernel: int, *, stride: int = 1
) -> list[nn.Module]:
    eps = 1e-4 if cfg.weight_standardised else 1e-5
    return [
        conv(channels_in, channels, kernel, stride=stride, standardised=cfg.weight_standardised),
        nn.GroupNorm(cfg.norm_groups, channels, eps=eps),
    ]


def _block(cfg: ResNetConfig, channels_in: int, width: int, *, stride: int) -> Block:
    """A basic or a bottleneck block, initialised as in PTR: a bottleneck's last norm starts at
    scale 0, so that it starts as its shortcut; a basic block's starts at 1, as all other norms."""
    channels = width * _expansion(cfg)
    bottleneck = cfg.depth >= 50
    if not bottleneck:
        plan = [(channels_in, width, 3, stride), (width, channels, 3, 1)]
    else:
        plan = [(channels_in, width, 1, 1), (width, width, 3, stride), (width, channels, 1, 1)]
    branch = nn.Sequential()
    for source, target, kernel, step in plan:
        branch.extend(_conv_norm(cfg, source, target, kernel, stride=step))
        branch.append(nn.ReLU(inplace=True))
    del branch[-1]
    if bottleneck:
        nn.init.zeros_(branch[-1].weight)  # pyright: ignore[reportArgumentType]
    if stride == 1 and channels_in == channels:
        return Block(branch, nn.Identity())
    return Block(branch, nn.Sequential(*_conv_norm(cfg, channels_in, channels, 1, stride=stride)))


def _map(cfg: ResNetConfig, frame: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the last map; raises ConfigError where there is nothing to halve."""
    size, smallest = frame, {"paper": 4, "patch": 4, "small": 1}[cfg.stem]
    if min(frame) < smallest:
        raise ConfigError(
            f"encoder.stem: {cfg.stem!r} wants frames of at least {smallest}x{smallest} pixels, "
            f"got {frame[0]}x{frame[1]}; take 'small'"
        )
    if cfg.stem == "paper":
        size = halved(halved(size))
    if cfg.stem == "patch":
        size = frame[0] // 4, frame[1] // 4
    for stage, stride in enumerate(cfg.strides[: len(STAGES[cfg.depth])], 1):
        if min(size) < stride:
            raise ConfigError(
                f"encoder.strides: too deep for frames of {frame[0]}x{frame[1]}: stage {stage} has "
                f"stride {stride} but gets a map of {size[0]}x{size[1]}; set smaller strides, "
                "stem 'small' or a smaller depth"
            )
        size = halved(size) if stride == 2 else size
    return size
