"""From an encoder's map to what an objective asked for: neck, then a head for every task.

neck: spatial embedding -> fully connected layers -> unit norm -> times the feature scale.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from math import prod
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from scaledq.core.config import config
from scaledq.core.errors import ConfigError
from scaledq.core.outputs import HeadSpec, Outputs
from scaledq.nets.blocks import floats

ENCODER, HEADS = "encoder.", "heads."
"""How the names of a network's parameters begin."""


@config
class NeckConfig:
    """How a map becomes the features that the heads are linear in (section 4; appendix B.3)."""

    embedding: Literal["sum", "product", "none"] = "sum"
    """sum: K learned weighted sums over the map, for each channel (PTR). product: the map times a
    learned one, flattened (the paper's wording). none: flattened; what vectors need."""
    embeddings: int = 32
    """K of "sum"."""
    width: int = 512
    layers: int = 1
    """Fully connected layers of `width` units, each with a ReLU."""
    layer_norm: bool = False
    """Normalises each of those layers before its ReLU, as PQN does."""
    unit_norm: bool = True
    """Divides the features by their l2 norm (section 4; ablated in table 2)."""
    feature_scale: float = 1.0
    """Multiplies the unit-norm features: 1 in the paper. Logits then start within about 0.1 of 0
    and need many steps to grow; small budgets take sqrt(width)."""

    def __post_init__(self) -> None:
        for field in ("embeddings", "width", "layers"):
            if getattr(self, field) < 1:
                raise ConfigError(f"neck.{field}: must be at least 1, got {getattr(self, field)}")
        if self.feature_scale <= 0:
            raise ConfigError(f"neck.feature_scale: must be positive, got {self.feature_scale}")


class SpatialEmbedding(nn.Module):
    """[B C H W] (or [B D]) -> [B E], E being `size`.

    Raises:
      ConfigError: a vector with an embedding other than "none".
    """

    def __init__(self, cfg: NeckConfig, shape: tuple[int, ...]):
        super().__init__()
        if len(shape) == 1 and cfg.embedding != "none":
            raise ConfigError(
                f"neck.embedding: {cfg.embedding!r} wants a map, but this encoder answers vectors; "
                "set it to 'none'"
            )
        self.kind, self.size = cfg.embedding, prod(shape)
        if cfg.embedding == "sum":
            # Each sum has H*W terms: this variance hands the map's own scale on.
            std = prod(shape[1:]) ** -0.5
            self.weight = nn.Parameter(torch.randn(cfg.embeddings, *shape) * std)
            self.size = cfg.embeddings * shape[0]
        elif cfg.embedding == "product":
            self.weight = nn.Parameter(torch.ones(shape))

    def forward(self, x: Float[Tensor, "B *shape"]) -> Float[Tensor, "B E"]:
        if self.kind == "sum":
            return torch.einsum("bchw,kchw->bkc", x, self.weight).flatten(1)
        return (x * self.weight if self.kind == "product" else x).flatten(1)


class Trunk(nn.Module):
    """The fully connected part and its norm: [B E] -> [B D]."""

    def __init__(self, cfg: NeckConfig, size: int):
        super().__init__()
        self.unit_norm, self.scale = cfg.unit_norm, cfg.feature_scale
        self.layers = nn.Sequential()
        for _ in range(cfg.layers):
            self.layers.append(nn.Linear(size, cfg.width))
            if cfg.layer_norm:
                self.layers.append(nn.LayerNorm(cfg.width))
            self.layers.append(nn.ReLU(inplace=True))
            size = cfg.width

    def forward(self, x: Float[Tensor, "B E"]) -> Float[Tensor, "B D"]:
        # Under autocast the layers answer in 16 bits: norms and heads want what the weights have.
        features = self.layers(x).to(next(self.layers.parameters()).dtype)
        return self.scale * F.normalize(features, dim=-1) if self.unit_norm else features


class TaskHeads(nn.Module):
    """One linear layer for each of N tasks: features [B D] -> [B O], by each row's own task.

    Weights and biases start uniform within 1/sqrt(D), as torch's own linear layers.
    """

    def __init__(self, tasks: int, width: int, outputs: int):
        super().__init__()
        bound = width**-0.5
        self.weight = nn.Parameter(torch.empty(tasks, outputs, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(tasks, outputs).uniform_(-bound, bound))
        self.needed: tuple[int, ...] | None = None
        """How many of its outputs each task has a use for; `by_task` makes the others 0."""

    def forward(
        self, features: Float[Tensor, "B D"], task: Int[Tensor, "B"]
    ) -> Float[Tensor, "B O"]:
        if features.is_cpu and not torch.compiler.is_compiling():
            return self.by_task(features, task)
        return self.every_task(features, task)

    def by_task(
        self, features: Float[Tensor, "B D"], task: Int[Tensor, "B"]
    ) -> Float[Tensor, "B O"]:
        """Sorts the rows, so that each pays for its own task alone; counting them waits for the
        device and cannot be compiled or exported."""
        order = task.argsort(stable=True)
        counts = task.bincount(minlength=len(self.weight)).tolist()
        groups = zip(features[order].split(counts), self.weight, self.bias, strict=True)
        if self.needed is None:
            answers = [F.linear(rows, weight, bias) for rows, weight, bias in groups]
        else:
            outputs = self.bias.shape[1]
            answers = [
                F.pad(F.linear(rows, weight[:needed], bias[:needed]), (0, outputs - needed))
                for (rows, weight, bias), needed in zip(groups, self.needed, strict=True)
            ]
        return torch.cat(answers)[order.argsort()]

    def every_task(
        self, features: Float[Tensor, "B D"], task: Int[Tensor, "B"]
    ) -> Float[Tensor, "B O"]:
        """Asks every head about every row and keeps one answer: one large product, no waiting."""
        answers = F.linear(features, self.weight.flatten(0, 1), self.bias.flatten())
        rows = torch.arange(task.shape[0], device=task.device)
        return answers.unflatten(-1, self.bias.shape)[rows, task]


class Network(nn.Module):
    """Encoder -> neck -> heads. `tasks` are the tasks' action counts; A is the largest.

    A head with `own_branch` gets a trunk of its own on the shared embedding, alike in all else.

    Raises:
      ConfigError: see SpatialEmbedding.
    """

    available: Bool[Tensor, "N A"]

    def __init__(
        self,
        encoder: nn.Module,
        neck: NeckConfig,
        *,
        tasks: tuple[int, ...],
        heads: tuple[HeadSpec, ...],
    ):
        super().__init__()
        names = {spec.name for spec in heads}
        assert len(names) == len(heads), "two heads of one name"
        assert names.isdisjoint({"features", "available"}), "names that every output has"
        assert not all(spec.own_branch for spec in heads), "the shared trunk would learn nothing"
        actions = max(tasks)
        self.specs = heads
        self.autocast: torch.dtype | None = None
        """In which type convolutions and the neck's products are computed; None: as the weights."""
        self.encoder = encoder
        shape: tuple[int, ...] = encoder.out_shape  # pyright: ignore[reportAssignmentType]
        self.embedding = SpatialEmbedding(neck, shape)
        self.trunk = Trunk(neck, self.embedding.size)
        self.branches, self.heads = nn.ModuleDict(), nn.ModuleDict()
        for spec in heads:
            if spec.own_branch:
                self.branches[spec.name] = Trunk(neck, self.embedding.size)
            outputs = spec.size * (actions if spec.per_action else 1)
            self.heads[spec.name] = TaskHeads(len(tasks), neck.width, outputs)
        mask = torch.arange(actions) < torch.tensor(tasks)[:, None]
        self.register_buffer("available", mask, persistent=False)

    def forward(self, obs: Shaped[Tensor, "B S *frame"], task: Int[Tensor, "B"]) -> Outputs:
        """Answers every head; uint8 observations are divided by 255, all others taken as they are.

        Rows of slots that a task lacks hold numbers without meaning: mask with `available`.
        """
        dtype = next(self.trunk.parameters()).dtype
        with self._casting(obs.device):
            embedded = self.embedding(self.encoder(floats(obs, dtype)))
            features = self.trunk(embedded)
            own = {name: branch(embedded) for name, branch in self.branches.items()}
        out = {"features": features, "available": self.available[task]}
        for spec in self.specs:
            answer = self.heads[spec.name](own.get(spec.name, features), task)
            out[spec.name] = answer.unflatten(-1, (-1, spec.size)) if spec.per_action else answer
        return out

    @contextmanager
    def frugal(self) -> Iterator[None]:
        """Meanwhile a CPU does not compute what heads say of actions that a row's task lacks: 0 it
        is then. Other numbers may differ in their last bits."""
        actions = self.available.sum(-1).tolist()
        for spec in self.specs:
            head = self.heads[spec.name]
            if spec.per_action and isinstance(head, TaskHeads):
                head.needed = tuple(spec.size * count for count in actions)
        try:
            yield
        finally:
            for head in self.heads.values():
                head.needed = None  # pyright: ignore[reportArgumentType]

    def _casting(self, device: torch.device) -> AbstractContextManager[object]:
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(device.type, self.autocast)
