"""The shapes of data that cross from `data` to `learn`: transitions, or windows of steps.

Shapes, here and everywhere below: B batch, N tasks, A actions, Z atoms, D features,
T window, C H W image; S frames in a stack, K = S + n frames held for an n-step
transition. `*frame` is the shape of one frame: H W for a picture, one axis for a vector.
"""

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """B transitions. `frames` holds each frame once; `obs` and `next_obs` are taken from it."""

    frames: Shaped[Tensor, "B K *frame"]
    task: Int[Tensor, "B"]
    action: Int[Tensor, "B"]
    reward: Float[Tensor, "B"]
    """Discounted sum of the (clipped) rewards on the way to `next_obs`."""
    step_reward: Float[Tensor, "B"]
    """The first of those rewards alone: what a running estimate of the reward's scale sees."""
    discount: Float[Tensor, "B"]
    """gamma**m after m steps, or 0 where the episode terminated: losses never ask about endings."""
    steps: Int[Tensor, "B"]
    """m, the steps from `obs` to `next_obs`: n, or fewer where episode or log ends first."""
    returns: Float[Tensor, "B"] | None = None
    """Monte-Carlo: the discounted sum of the (clipped) rewards from `obs` to the episode's end, NaN
    where that end is not known; None where no objective asks for it."""
    stack: int = 4
    noise: int = 0
    """Names whatever an objective draws at this optimiser step: a function of (seed, step) too."""

    @property
    def obs(self) -> Shaped[Tensor, "B S *frame"]:
        """Frames the action was chosen from."""
        return self.frames[:, : self.stack]

    @property
    def next_obs(self) -> Shaped[Tensor, "B S *frame"]:
        """Frames m steps later."""
        batch, held = self.frames.shape[:2]
        first = torch.arange(batch, device=self.steps.device) * held + self.steps
        window = torch.arange(self.stack, device=self.steps.device)
        chosen = (first[:, None] + window).flatten()
        # index_select copies whole frames; indexing would gather them pixel by pixel.
        return self.frames.flatten(0, 1).index_select(0, chosen).unflatten(0, (batch, self.stack))

    def __len__(self) -> int:
        return len(self.action)

    def joined(self, other: "Batch") -> "Batch":
        """These rows, then the other's, which hold as many frames; the noise is these rows'."""
        theirs = other._tensors()
        both = {name: torch.cat([mine, theirs[name]]) for name, mine in self._tensors().items()}
        return replace(self, **both)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Batch":
        """The same batch on another device."""
        moved = {k: v.to(device, non_blocking=non_blocking) for k, v in self._tensors().items()}
        return replace(self, **moved)

    def pinned(self) -> "Batch":
        """The same batch in page-locked memory, from which a GPU copies while the host goes on."""
        return replace(self, **{k: v.pin_memory() for k, v in self._tensors().items()})

    def _tensors(self) -> dict[str, Tensor]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """B stretches of T successive steps, each within one episode; its end leaves padding behind.

    Padding holds zeros and comes last, so that a causal network never sees it before a real step.
    """

    frames: Shaped[Tensor, "B T *frame"]
    """One observation a step, without a stack."""
    task: Int[Tensor, "B"]
    action: Int[Tensor, "B T"]
    reward: Float[Tensor, "B T"]
    """What followed each action, clipped."""
    return_to_go: Float[Tensor, "B"]
    """Undiscounted sum of the clipped rewards from the first step to the episode's end; NaN where
    the log does not know that end."""
    steps: Int[Tensor, "B"]
    """How many of the T steps are real: at least 1."""
    noise: int = 0
    """Names the dropout of this optimiser step: a function of (seed, step), as all else here."""

    @property
    def real(self) -> Bool[Tensor, "B T"]:
        """False in padding."""
        places = torch.arange(self.action.shape[1], device=self.steps.device)
        return places < self.steps[:, None]

    def __len__(self) -> int:
        return len(self.task)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Windows":
        """The same windows on another device."""
        moved = {k: v.to(device, non_blocking=non_blocking) for k, v in self._tensors().items()}
        return replace(self, **moved)

    def pinned(self) -> "Windows":
        """The same windows in page-locked memory."""
        return replace(self, **{k: v.pin_memory() for k, v in self._tensors().items()})

    def _tensors(self) -> dict[str, Tensor]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "noise"}
