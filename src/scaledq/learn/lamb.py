"""Adam whose step is as long as the weights ask for (You et al., 2020): for very large batches.

https://arxiv.org/abs/1904.00962, algorithm 2, with phi the identity, as optax and the decision
transformers of Lee et al. (2022) have it.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Lamb(torch.optim.Optimizer):
    """Each layer moves by lr * |w| along its Adam direction; by lr times that where either is 0.

    A step whose `found_inf` is 1 changes nothing, as with torch's fused optimizers.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ):
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(parameters, defaults)
        self.found_inf: Tensor | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of every parameter that has a gradient."""
        assert closure is None, "one gradient a step"
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, weight.grad, group)

    def _move(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros((), device=weight.device)
            state["exp_avg"], state["exp_avg_sq"] = (
                torch.zeros_like(weight),
                torch.zeros_like(weight),
            )
        kept = 1.0 if self.found_inf is None else 1 - self.found_inf
        if self.found_inf is not None:
            gradient = torch.where(self.found_inf > 0, torch.zeros_like(gradient), gradient)
        first, second = group["betas"]
        state["step"] += kept
        # A skipped step moves the moments by a share of 0.
        state["exp_avg"].lerp_(gradient, torch.as_tensor((1 - first) * kept, device=weight.device))
        share = torch.as_tensor((1 - second) * kept, device=weight.device)
        state["exp_avg_sq"].lerp_(gradient * gradient, share)
        step = state["step"].clamp(min=1)
        mean = state["exp_avg"] / (1 - first**step)
        deviation = (state["exp_avg_sq"] / (1 - second**step)).sqrt_()
        direction = mean.div_(deviation.add_(group["eps"]))
        if group["weight_decay"]:
            direction.add_(weight, alpha=group["weight_decay"])
        weight.sub_(direction * (group["lr"] * kept * trust(weight, direction)))


def trust(weight: Tensor, direction: Tensor) -> Tensor:
    """|w| / |direction|, or 1 where either is 0."""
    long, wide = weight.norm(), direction.norm()
    return torch.where((long > 0) & (wide > 0), long / wide, torch.ones_like(long))
