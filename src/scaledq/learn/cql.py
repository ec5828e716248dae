"""How values of actions that the data lack are held down (Kumar et al., 2020).

Shapes: B batch, A actions.
"""

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor


def masked(values: Float[Tensor, "B A"], available: Bool[Tensor, "B A"]) -> Float[Tensor, "B A"]:
    """-inf in the slots of actions that a row's task lacks."""
    return values.masked_fill(~available, -torch.inf)


def of_action(values: Shaped[Tensor, "B A *Z"], action: Int[Tensor, "B"]) -> Shaped[Tensor, "B *Z"]:
    """Each row's entry for its action."""
    return values[torch.arange(len(action), device=action.device), action]


def gap(
    q: Float[Tensor, "B A"], action: Int[Tensor, "B"], available: Bool[Tensor, "B A"]
) -> Float[Tensor, "B"]:
    """log sum_a exp Q(s, a) - Q(s, a_data), over the task's own actions (the paper's eq. 1).

    With values from a distribution, Q is its mean. Never negative; 0 where the task has one action.
    """
    return masked(q, available).logsumexp(-1) - of_action(q, action)


def calibrated_gap(
    q: Float[Tensor, "B A"],
    action: Int[Tensor, "B"],
    available: Bool[Tensor, "B A"],
    returns: Float[Tensor, "B"],
) -> Float[Tensor, "B"]:
    """log sum_a exp max(Q(s, a), V(s)) - Q(s, a_data): Cal-QL with a sum over all actions.

    V is the behaviour's Monte-Carlo return `returns`: values below it are pushed down no further
    (Nakamoto et al., 2023, https://arxiv.org/abs/2303.05479, eq. 5.1). Where it is NaN the episode
    has not ended, and the gap is 0: Cal-QL sees nothing but episodes that ended, and nothing may be
    pushed down without a floor.
    """
    known = ~returns.isnan()
    floor = returns.where(known, 0.0)[:, None]
    above = masked(q.maximum(floor), available).logsumexp(-1)
    return (above - of_action(q, action)).where(known, 0.0)
