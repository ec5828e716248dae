"""How features of successive states are kept from growing alike (Kumar et al., 2021).

https://arxiv.org/abs/2112.04716. Shapes: B batch, D features.
"""

from jaxtyping import Float
from torch import Tensor


def coadaptation(
    features: Float[Tensor, "B D"], next_features: Float[Tensor, "B D"]
) -> Float[Tensor, "B"]:
    """phi(s) . phi(s'): the explicit regulariser DR3 is its weighted mean, gradients into both.

    The network's features belong to a state and every action reads them linearly, so
    phi(s, a) . phi(s', a') of the publication is this product whatever the actions.
    """
    return (features * next_features).sum(-1)
