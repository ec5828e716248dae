"""What a rollout's rewards and later values say an action was worth.

Shapes: T steps of time, R environments.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def lambda_returns(
    reward: Float[Tensor, "T R"],
    terminated: Bool[Tensor, "T R"],
    truncated: Bool[Tensor, "T R"],
    next_value: Float[Tensor, "T R"],
    *,
    gamma: float,
    lam: float,
) -> Float[Tensor, "T R"]:
    """Q(lambda) targets, backwards in time (Peng's; Gallici et al., 2024, section 3.2).

    G_t = r_t + gamma * [(1 - lam) V(s_{t+1}) + lam * G_{t+1}], with V = max_a Q. Where the episode
    terminated after step t, G_t = r_t; where it was truncated, and at the rollout's end, the
    bracket is V(s_{t+1}) alone.

    Args:
      next_value: V of the state that step t really led to, in a truncated row the closing
        observation and never the next episode's first. Rows that terminated may hold any number.
    """
    out = torch.empty_like(reward)
    later = next_value[-1]
    for t in reversed(range(len(reward))):
        mixed = torch.lerp(next_value[t], later, lam)
        ahead = torch.where(truncated[t], next_value[t], mixed)
        later = reward[t] + gamma * torch.where(terminated[t], torch.zeros_like(ahead), ahead)
        out[t] = later
    return out
