"""What a network answers, and what an objective asks of it: the words between `nets` and `learn`.

A network is a callable `(obs [B S *frame], task [B]) -> Outputs`; one that reads windows of steps
is a callable `(frames [B T *frame], task [B], action [B T], reward [B T], ...) -> Outputs`.
"""

from collections.abc import Callable

from torch import Tensor

from scaledq.core.config import config

Outputs = dict[str, Tensor]
"""`features` [B D], `available` [B A] bool (the actions that the row's task has), and one entry
for each HeadSpec: [B A Z] where it is per action, else [B Z]. Slots of actions that a task lacks
hold finite numbers; whoever reduces over actions masks them with `available`."""

Network = Callable[..., Outputs]


@config
class HeadSpec:
    """One output that an objective wants from every task's head."""

    name: str
    size: int
    """Z: atoms, bins, quantiles, or 1."""
    per_action: bool = True
    own_branch: bool = False
    """Gets fully connected layers of its own on the shared encoder, as BCQ's behaviour model."""
