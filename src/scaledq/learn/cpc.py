"""How an encoder is pre-trained by telling the next state from others (van den Oord et al., 2018).

https://arxiv.org/abs/1807.03748, as the baseline of Lee et al. (2022): a bilinear score, and the
other states of the batch as negatives. Shapes: B batch, D features.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from scaledq.core.batch import Batch
from scaledq.core.config import config
from scaledq.core.errors import ConfigError
from scaledq.core.outputs import HeadSpec, Network
from scaledq.learn.bc import Loss


def info_nce(
    scores: Float[Tensor, "B B"], pair: Bool[Tensor, "B"], rival: Bool[Tensor, "B B"]
) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
    """Cross-entropy of finding state i's own successor, i, among its rivals; and 1 where it wins.

    Args:
      scores: of state i with successor j.
      pair: which rows have a successor; the others count as 0 and the rest for more, so that the
        mean over B is the mean over pairs.
      rival: which successors j a state i has to be told from; its own is always among them.
    """
    rival = (rival & pair) | torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    scores = scores.masked_fill(~rival, -torch.inf)
    own = torch.arange(len(scores), device=scores.device)
    weight = pair * (len(pair) / pair.sum().clamp(min=1))
    loss = F.cross_entropy(scores, own, reduction="none") * weight
    return loss, (scores.argmax(1) == own) * weight


@config
class CPC:
    """Which of the batch's states came m steps later? It has no policy.

    m is the batch's own: `transitions.n_step`, which is 1 in Lee et al. In a distributed run, the
    negatives of a rank are its own rows.
    """

    kind: Literal["cpc"] = "cpc"
    width: int = 512
    layers: int = 2
    """Of `width` ReLU units on top of the encoder; thrown away with the score."""
    negatives: Literal["batch", "task"] = "batch"
    """All other states of the batch, or those of the same task, which are harder."""

    def __post_init__(self) -> None:
        for field in ("width", "layers"):
            if getattr(self, field) < 1:
                raise ConfigError(f"objective.{field}: must be at least 1: {getattr(self, field)}")

    @property
    def heads(self) -> tuple[HeadSpec, ...]:
        """It asks nothing of a task's head."""
        return ()

    @property
    def td(self) -> None:
        """There is no TD error and no reward in it."""
        return None

    @property
    def bootstraps(self) -> bool:
        """No target network is held."""
        return False

    def __call__(self, net: Network, target_net: Network, batch: Batch) -> Loss:
        both = net(torch.cat([batch.obs, batch.next_obs]), batch.task.repeat(2))
        predicted, features = both["predicted"].chunk(2)[0], both["features"].chunk(2)[1]
        followed = batch.discount > 0  # what comes after a terminal step is not known
        loss, correct = info_nce(predicted @ features.T, followed, self._rivals(batch.task))
        return loss, {"accuracy": correct}

    def _rivals(self, task: Int[Tensor, "B"]) -> Bool[Tensor, "B B"]:
        if self.negatives == "task":
            return task[:, None] == task
        return torch.ones(len(task), len(task), dtype=torch.bool, device=task.device)
