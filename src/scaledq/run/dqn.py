"""DQN and its family as behaviours: one network on all tasks of a recording, from a ring of steps.

The defaults are DQN's (Mnih et al., 2015) with Adam, as Dopamine's JAX agents have them; `C51` is
Bellemare et al. (2017) with Dopamine's settings.
"""

from typing import Annotated, Literal

from scaledq.core.config import by_kind, config
from scaledq.core.errors import ConfigError
from scaledq.data.loader import Transitions
from scaledq.learn.objective import Objective, ScaledQL
from scaledq.learn.optim import OptimConfig
from scaledq.learn.td import MSE
from scaledq.nets.head import NeckConfig
from scaledq.nets.nature import NatureConfig
from scaledq.run.compute import Compute
from scaledq.run.config import Encoder
from scaledq.run.replay import Replay


@config
class DQNConfig:
    """How the agent learns. Rewards are clipped for learning only; the logs have them raw."""

    kind: Literal["replay"] = "replay"
    name: str = "dqn"
    """What its logs are called."""
    objective: Annotated[Objective, by_kind] = ScaledQL(td=MSE(unitary=False, huber=1.0), alpha=0.0)
    encoder: Annotated[Encoder, by_kind] = NatureConfig()
    neck: NeckConfig = NeckConfig(embedding="none", unit_norm=False)
    optim: OptimConfig = OptimConfig(lr=6.25e-5, eps=1.5e-4)
    """Target copies every 2,000 updates are 8,000 steps apart."""
    transitions: Transitions = Transitions(n_step=1)
    batch_size: int = 32
    replay: Replay = Replay()
    compute: Compute = Compute(channels_last=True)
    log_every: int = 100
    """Updates between two rows of metrics."""
    checkpoint_every: int = 2_000
    """Updates between two checkpoints."""

    @property
    def stack(self) -> int:
        """Frames that it sees at once."""
        return self.transitions.stack

    def __post_init__(self) -> None:
        if not self.name or self.name in (".", "..") or any(c in self.name for c in '/\\\0\n":'):
            raise ConfigError(f"behaviour.name: must be usable as a file's, got {self.name!r}")
        if not self.objective.bootstraps:
            raise ConfigError(
                f"behaviour.objective: {self.objective.kind} has nobody to learn from"
            )
        for field in ("batch_size", "log_every", "checkpoint_every"):
            if getattr(self, field) < 1:
                raise ConfigError(f"behaviour.{field}: need at least 1, got {getattr(self, field)}")


DQN = DQNConfig()
C51 = DQNConfig(
    name="c51", objective=ScaledQL(alpha=0.0), optim=OptimConfig(lr=2.5e-4, eps=3.125e-4)
)
