"""The vision transformer (Dosovitskiy et al., 2020): the encoder that MAE pre-trains.

https://arxiv.org/abs/2010.11929, with MAE's fixed positions (He et al., 2021) and no class token:
what follows it is a map. Shapes: P patches of a stack, V of them visible, M numbers of a patch.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from scaledq.core.config import config
from scaledq.core.errors import ConfigError
from scaledq.nets.blocks import picture


@config
class ViTConfig:
    """The defaults are ViT-Base on a stack of frames: 36 patches of an 84x84 frame."""

    kind: Literal["vit"] = "vit"
    patch: int = 14
    """Side of a patch; all frames of a stack are its channels."""
    width: int = 768
    depth: int = 12
    heads: int = 12

    def __post_init__(self) -> None:
        for field in ("patch", "width", "depth", "heads"):
            if getattr(self, field) < 1:
                raise ConfigError(f"encoder.{field}: must be at least 1: {getattr(self, field)}")
        check_width(self.width, self.heads, where="encoder")


def check_width(width: int, heads: int, *, where: str) -> None:
    """Raises ConfigError where a width does not split into heads, or into sines and cosines."""
    if width % heads or width % 4:
        raise ConfigError(f"{where}: a width of {width} is no multiple of 4 and of {heads} heads")


class Layer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)) with GELU and four times the width."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Float[Tensor, "B V D"]) -> Float[Tensor, "B V D"]:
        parts = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.mlp_norm(x))


class ViT(nn.Module):
    """[B S H W] -> [B D h w], one cell a patch.

    Raises:
      ConfigError: frames that are not pictures, or do not split into patches.
    """

    positions: Float[Tensor, "P D"]

    def __init__(self, cfg: ViTConfig, in_shape: tuple[int, ...]):
        super().__init__()
        stack, height, width = picture(in_shape, encoder="ViT")
        if height % cfg.patch or width % cfg.patch:
            raise ConfigError(
                f"encoder.patch: frames of {height}x{width} do not split into patches of "
                f"{cfg.patch}x{cfg.patch}; choose a divisor of both sides"
            )
        self.patch, self.stack = cfg.patch, stack
        self.grid = height // cfg.patch, width // cfg.patch
        self.embed = nn.Linear(stack * cfg.patch**2, cfg.width)
        self.layers = nn.ModuleList(Layer(cfg.width, cfg.heads) for _ in range(cfg.depth))
        self.norm = nn.LayerNorm(cfg.width)
        self.register_buffer("positions", sincos(self.grid, cfg.width), persistent=False)
        self.out_shape = (cfg.width, *self.grid)
        initialise(self)

    def forward(self, x: Float[Tensor, "B S H W"]) -> Float[Tensor, "B D h w"]:
        tokens = self.encode(patches(x, self.patch))
        return tokens.transpose(1, 2).unflatten(2, self.grid)

    def encode(
        self, patches: Float[Tensor, "B P M"], visible: Int[Tensor, "B V"] | None = None
    ) -> Float[Tensor, "B V D"]:
        """Tokens of the visible patches (of all by default), which see no others."""
        x = self.embed(patches) + self.positions
        if visible is not None:
            x = chosen(x, visible)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


def patches(x: Float[Tensor, "B S H W"], side: int) -> Float[Tensor, "B P M"]:
    """Patches in reading order; M is by frame, then row, then column."""
    cut = x.unflatten(3, (-1, side)).unflatten(2, (-1, side))
    return cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def assembled(
    patches: Float[Tensor, "B P M"], grid: tuple[int, int], *, stack: int
) -> Float[Tensor, "B S H W"]:
    """Inverse of `patches`."""
    side = round((patches.shape[-1] // stack) ** 0.5)
    cut = patches.unflatten(1, grid).unflatten(3, (stack, side, side))
    return cut.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def chosen(tokens: Float[Tensor, "B P D"], index: Int[Tensor, "B V"]) -> Float[Tensor, "B V D"]:
    """The tokens at each row's own places."""
    return tokens.gather(1, index[:, :, None].expand(-1, -1, tokens.shape[2]))


def sincos(grid: tuple[int, int], width: int) -> Float[Tensor, "P D"]:
    """Fixed positions: a quarter of the width each for sine and cosine of row and of column.

    Wavelengths grow geometrically from 2 pi to 20,000 pi (Vaswani et al., 2017).
    """
    rates = 10_000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    rows, columns = torch.meshgrid(*(torch.arange(side) for side in grid), indexing="ij")
    angles = [place.flatten()[:, None] * rates for place in (rows, columns)]
    return torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], dim=1).float()


def initialise(module: nn.Module) -> None:
    """Every linear layer: xavier-uniform weights and zero biases, as MAE starts them."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
