"""The multi-game decision transformer: windows of steps in, returns, actions and rewards out.

Lee et al. (2022), https://arxiv.org/abs/2205.15241. Shapes: B windows, T steps, S stacked frames,
P patches of an image, L tokens, D width, A actions, V tokens of the vocabulary, Z returns.
"""

from math import ceil, prod
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from scaledq.core.config import config
from scaledq.core.errors import ConfigError
from scaledq.core.outputs import Outputs
from scaledq.core.vocabulary import Vocabulary
from scaledq.nets.blocks import floats
from scaledq.nets.layout import Layout
from scaledq.nets.resnet import ResNetConfig

REWARDS = 3
"""Negative, none, positive: section 3."""


@config
class TransformerConfig:
    """A GPT-2-like stack: norms before the layers, GELU, learned positions. The default has 40 M
    parameters, as (512, 8, 4) has 10 M and (1280, 20, 10) 200 M."""

    kind: Literal["transformer"] = "transformer"
    width: int = 768
    heads: int = 12
    layers: int = 6
    patch: int = 14
    """Side of an image's square patches; pictures are padded with zeros to a multiple of it.
    Frames that are no pictures become one token."""
    dropout: float = 0.1
    """Of what each layer adds."""
    resnet: ResNetConfig | None = None
    """Makes the image tokens, one of each place on its map, in the patches' stead; it sees stacks
    of the window's frames. What an objective such as CPC has pre-trained can take its place."""

    def __post_init__(self) -> None:
        for field in ("width", "heads", "layers", "patch"):
            if getattr(self, field) < 1:
                raise ConfigError(
                    f"encoder.{field}: must be at least 1, got {getattr(self, field)}"
                )
        if self.width % self.heads:
            raise ConfigError(
                f"encoder.width: must be a multiple of the {self.heads} heads, got {self.width}"
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"encoder.dropout: must lie in [0, 1), got {self.dropout}")


class Dropout:
    """Dropout by a number: equal numbers, equal masks, whatever was drawn before."""

    def __init__(self, probability: float, noise: int, device: torch.device):
        self.keep = 1 - probability
        self._generator = torch.Generator(device).manual_seed(noise) if probability else None

    def __call__(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        if self._generator is None:
            return x
        kept = torch.empty_like(x).bernoulli_(self.keep, generator=self._generator)
        return x * kept.div_(self.keep)


class Block(nn.Module):
    """Attention and a widening layer, each added to what came in."""

    def __init__(self, cfg: TransformerConfig):
        super().__init__()
        self.heads = cfg.heads
        self.attention_norm, self.widening_norm = nn.LayerNorm(cfg.width), nn.LayerNorm(cfg.width)
        self.queries_keys_values = _linear(cfg.width, 3 * cfg.width, scale=2 / cfg.layers)
        self.joined = _linear(cfg.width, cfg.width, scale=2 / cfg.layers)
        self.widening = nn.Sequential(
            _linear(cfg.width, 4 * cfg.width, scale=2 / cfg.layers),
            nn.GELU(approximate="tanh"),
            _linear(4 * cfg.width, cfg.width, scale=2 / cfg.layers),
        )

    def forward(
        self, x: Float[Tensor, "B L D"], mask: Bool[Tensor, "L L"], dropout: Dropout
    ) -> Float[Tensor, "B L D"]:
        parts = self.queries_keys_values(self.attention_norm(x))
        queries, keys, values = parts.unflatten(-1, (3, self.heads, -1)).unbind(2)
        x = x + dropout(self.attend(queries, keys, values, mask))
        return x + dropout(self.widening(self.widening_norm(x)))

    def attend(
        self,
        queries: Float[Tensor, "B l heads d"],
        keys: Float[Tensor, "B L heads d"],
        values: Float[Tensor, "B L heads d"],
        mask: Bool[Tensor, "*B l L"],
    ) -> Float[Tensor, "B l D"]:
        """Each query's mixture of the values that its mask lets it see."""
        parts = (part.transpose(1, 2) for part in (queries, keys, values))
        mixed = F.scaled_dot_product_attention(*parts, attn_mask=mask)
        return self.joined(mixed.transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    """Reads windows and answers three questions at each step.

    Args:
      frame_shape: of one observation.
      context: T at most.
      vocabulary: the tokens of every task's actions.
      returns: Z, how many returns are told apart; 0 for no return tokens (the BC transformer).
      encoder: of stacks [S *frame], to maps that are read in the patches' stead.
      stack: S, how many of the window's frames the encoder sees at once; zeros stand before its
        first.
    """

    available: Bool[Tensor, "N A"]
    tokens: Int[Tensor, "N A"]
    mask: Bool[Tensor, "L L"]

    def __init__(
        self,
        cfg: TransformerConfig,
        frame_shape: tuple[int, ...],
        *,
        context: int,
        vocabulary: Vocabulary,
        returns: int,
        encoder: nn.Module | None = None,
        stack: int = 1,
    ):
        super().__init__()
        self.cfg, width = cfg, cfg.width
        self.encoder, self.before = encoder, stack - 1
        self.image = _Map(encoder, width) if encoder else _Patches(cfg, frame_shape)
        self.layout = Layout(context, self.image.patches, returns=returns > 0)
        self.positions = _embedding(self.layout.length, width)
        self.actions = _embedding(vocabulary.size, width)
        self.rewards = _embedding(REWARDS, width)
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.layers))
        self.norm = nn.LayerNorm(width)
        self.action_head = _linear(width, vocabulary.size)
        self.reward_head = _linear(width, REWARDS)
        if returns:
            self.returns = _embedding(returns, width)
            self.return_head = _linear(width, returns)
        most = max(map(len, vocabulary.tokens))
        padded = [row + (0,) * (most - len(row)) for row in vocabulary.tokens]
        counts = torch.tensor([len(row) for row in vocabulary.tokens])
        self.register_buffer("tokens", torch.tensor(padded), persistent=False)
        self.register_buffer("available", torch.arange(most) < counts[:, None], persistent=False)
        self.register_buffer("mask", self.layout.mask(), persistent=False)

    def forward(
        self,
        frames: Shaped[Tensor, "B T *frame"],
        task: Int[Tensor, "B"],
        action: Int[Tensor, "B T"],
        reward: Int[Tensor, "B T"],
        returns: Int[Tensor, "B"] | None = None,
        *,
        noise: int = 0,
    ) -> Outputs:
        """Answers for every step; a step's answers depend on nothing after it.

        Args:
          action: numbers in the task's own set.
          reward: 0 negative, 1 none, 2 positive.
          returns: class of the first step's return; a BC transformer takes none.
          noise: names the dropout; none outside of training.

        Returns:
          `policy` [B T A], `reward` [B T 3], `return` [B Z] (of the first step), `available`
          [B A], and `features` [B T D], which the policy is linear in.

        Raises:
          ConfigError: a window longer than the context.
        """
        x = self.embed(frames, task, action, reward, returns)
        mask = self.mask[: x.shape[1], : x.shape[1]]
        dropout = Dropout(self.cfg.dropout if self.training else 0.0, noise, x.device)
        for block in self.blocks:
            x = block(x, mask, dropout)
        x = self.norm(x).unflatten(1, (-1, self.layout.step))
        features = x[:, :, self.layout.choice]
        out = {
            "features": features,
            "available": self.available[task],
            "policy": self.policy(features, task),
            "reward": self.reward_head(x[:, :, self.layout.action]),
        }
        if self.layout.returns:
            out["return"] = self.return_head(x[:, 0, self.layout.patches - 1])
        return out

    def embed(
        self,
        frames: Shaped[Tensor, "B T *frame"],
        task: Int[Tensor, "B"],
        action: Int[Tensor, "B T"],
        reward: Int[Tensor, "B T"],
        returns: Int[Tensor, "B"] | None = None,
    ) -> Float[Tensor, "B L D"]:
        """The window's tokens, positions included; without `returns`, return tokens are bare
        positions, as all but the first always are."""
        steps = frames.shape[1]
        if steps > self.layout.context:
            raise ConfigError(
                f"this transformer was made for contexts of {self.layout.context} steps, got a "
                f"window of {steps}; give it the last {self.layout.context}"
            )
        act, paid = self.embed_actions(action, task), F.embedding(reward, self.rewards)
        parts = [self.see(frames), act[:, :, None], paid[:, :, None]]
        if self.layout.returns:
            asked = torch.zeros_like(act)
            if returns is not None:
                asked = torch.cat([F.embedding(returns, self.returns)[:, None], asked[:, 1:]], 1)
            parts.insert(1, asked[:, :, None])
        x = torch.cat(parts, 2).flatten(1, 2)
        return x + self.positions[: x.shape[1]]

    def see(
        self,
        frames: Shaped[Tensor, "B T *frame"],
        before: Shaped[Tensor, "B s *frame"] | None = None,
    ) -> Float[Tensor, "B T P D"]:
        """The tokens of each step's image.

        Args:
          before: the frames in front of the first; none (zeros) where a window begins.
        """
        if self.encoder is None:
            return self.image(frames)
        if before is None:
            before = frames.new_zeros(len(frames), self.before, *frames.shape[2:])
        stacks = torch.cat([before, frames], 1).unfold(1, self.before + 1, 1).movedim(-1, 2)
        maps = self.encoder(floats(stacks.flatten(0, 1), self.positions.dtype))
        return self.image(maps.unflatten(0, frames.shape[:2]))

    def embed_actions(
        self, action: Int[Tensor, "B T"], task: Int[Tensor, "B"]
    ) -> Float[Tensor, "B T D"]:
        """Embeddings of numbers in the task's own set."""
        return F.embedding(self.tokens[task].gather(1, action), self.actions)

    def policy(
        self, features: Float[Tensor, "B T D"], task: Int[Tensor, "B"]
    ) -> Float[Tensor, "B T A"]:
        """Logits of the task's own actions; slots that it lacks hold numbers without meaning."""
        logits = self.action_head(features)
        own = self.tokens[task][:, None].expand(-1, logits.shape[1], -1)
        return logits.gather(-1, own)


class _Map(nn.Module):
    """[B T C h w] -> [B T h*w D]: each place of a map times one matrix, plus its place."""

    def __init__(self, encoder: nn.Module, width: int):
        super().__init__()
        shape: tuple[int, ...] = encoder.out_shape  # pyright: ignore[reportAssignmentType]
        channels, *size = shape
        self.patches = prod(size)
        self.projection = _linear(channels, width)
        self.places = _embedding(self.patches, width)

    def forward(self, maps: Float[Tensor, "B T C h w"]) -> Float[Tensor, "B T P D"]:
        return self.projection(maps.flatten(3).transpose(2, 3)) + self.places


class _Patches(nn.Module):
    """[B T *frame] -> [B T P D]: each patch of a picture times one matrix, plus its place."""

    def __init__(self, cfg: TransformerConfig, frame_shape: tuple[int, ...]):
        super().__init__()
        self.side = cfg.patch if len(frame_shape) == 2 else 0
        self.margin = (0, 0)
        self.patches, size = 1, prod(frame_shape)
        if self.side:
            cells = [ceil(length / self.side) for length in frame_shape]
            down, right = (n * self.side - at for n, at in zip(cells, frame_shape, strict=True))
            self.margin = (right, down)
            self.patches, size = prod(cells), self.side**2
        self.projection = _linear(size, cfg.width)
        nn.init.trunc_normal_(self.projection.weight, std=0.02)
        self.places = _embedding(self.patches, cfg.width)

    def forward(self, frames: Shaped[Tensor, "B T *frame"]) -> Float[Tensor, "B T P D"]:
        x = frames.to(self.places.dtype)
        x = x / 255 if frames.dtype == torch.uint8 else x
        if not self.side:
            return self.projection(x.flatten(2))[:, :, None] + self.places
        right, down = self.margin
        x = F.pad(x, (0, right, 0, down)) if right or down else x
        x = x.unflatten(3, (-1, self.side)).unflatten(2, (-1, self.side))  # B T h side w side
        return self.projection(x.transpose(3, 4).flatten(4).flatten(2, 3)) + self.places


def _embedding(count: int, width: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(count, width), std=0.02))


def _linear(size: int, width: int, *, scale: float = 1.0) -> nn.Linear:
    """Weights of variance scale / size, cut off at two deviations; biases 0."""
    layer = nn.Linear(size, width)
    cut = 0.8796256610342398  # what the cut leaves of a unit deviation
    deviation = (scale / size) ** 0.5 / cut
    nn.init.trunc_normal_(layer.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
    nn.init.zeros_(layer.bias)
    return layer
