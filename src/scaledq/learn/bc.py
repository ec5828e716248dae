"""How the logged action is copied: the baseline that never asks what an action is worth.

Shapes: B batch, A actions.
"""

from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

from scaledq.core.batch import Batch
from scaledq.core.config import config
from scaledq.core.outputs import HeadSpec, Network, Outputs
from scaledq.learn.cql import masked, of_action

Loss = tuple[Float[Tensor, "B"], dict[str, Float[Tensor, "B"]]]
"""What is minimised for each sample, and its parts by name, detached."""


def log_likelihood(
    logits: Float[Tensor, "B A"], action: Int[Tensor, "B"], available: Bool[Tensor, "B A"]
) -> Float[Tensor, "B"]:
    """log pi(a | s), with pi the softmax over the task's own actions."""
    return of_action(masked(logits, available).log_softmax(-1), action)


@config
class BehaviourCloning:
    """Cross-entropy to the logged action."""

    kind: Literal["bc"] = "bc"

    @property
    def heads(self) -> tuple[HeadSpec, ...]:
        """One logit an action."""
        return (HeadSpec(name="policy", size=1),)

    @property
    def td(self) -> None:
        """There is no TD error and no reward in it."""
        return None

    @property
    def bootstraps(self) -> bool:
        """No target network is held."""
        return False

    def preferences(self, outputs: Outputs) -> Float[Tensor, "B A"]:
        """The logits; -inf for actions that the task lacks."""
        return masked(outputs["policy"].squeeze(-1), outputs["available"])

    def __call__(self, net: Network, target_net: Network, batch: Batch) -> Loss:
        outputs = net(batch.obs, batch.task)
        logits = outputs["policy"].squeeze(-1)
        nll = -log_likelihood(logits, batch.action, outputs["available"])
        return nll, {"nll": nll.detach()}
