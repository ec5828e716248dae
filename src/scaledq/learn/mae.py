"""How an encoder is pre-trained without actions: pixels of hidden patches (He et al., 2021).

Shapes: B batch, P patches of a stack, M numbers of a patch.
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from scaledq.core.batch import Batch
from scaledq.core.config import config
from scaledq.core.errors import ConfigError
from scaledq.core.outputs import HeadSpec, Network
from scaledq.learn.bc import Loss


def normalised(patches: Float[Tensor, "B P M"], *, eps: float = 1e-6) -> Float[Tensor, "B P M"]:
    """Each patch with mean 0 and variance 1; a patch of one colour is 0 everywhere."""
    centred = patches - patches.mean(-1, keepdim=True)
    return centred / (patches.var(-1, keepdim=True) + eps).sqrt()


@config
class MAE:
    """Squared error of the hidden patches; what is seen costs nothing. It has no policy."""

    kind: Literal["mae"] = "mae"
    mask: float = 0.75
    """Share of the patches that the encoder does not see."""
    normalise: bool = True
    """Predict each patch in units of its own mean and deviation."""
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16

    def __post_init__(self) -> None:
        if not 0 < self.mask < 1:
            raise ConfigError(f"objective.mask must lie in (0, 1), got {self.mask}")
        for field in ("decoder_width", "decoder_depth", "decoder_heads"):
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
        outputs = net(batch.obs, batch.task, noise=batch.noise)
        target = normalised(outputs["patches"]) if self.normalise else outputs["patches"]
        error = ((outputs["predicted"] - target) ** 2).mean(-1)
        hidden = outputs["hidden"].to(error.dtype)
        loss = (error * hidden).sum(1) / hidden.sum(1)
        return loss, {"hidden_error": loss.detach()}
