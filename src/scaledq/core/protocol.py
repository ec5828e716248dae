"""How play is done and scored. Scores under unequal protocols are never compared in silence."""

from dataclasses import replace

from scaledq.core.config import config
from scaledq.core.errors import ConfigError, suggest


@config
class Protocol:
    """The rules of play. Steps are agent steps (decisions), each `frame_skip` emulator frames."""

    name: str
    sticky: float = 0.0
    """Probability that the environment repeats the last action instead (Machado et al., 2018)."""
    epsilon: float = 0.001
    """Probability that the policy's action is replaced by a uniformly random one."""
    step_cap: int = 27_000
    """Steps after which an episode is truncated; 27,000 are 108,000 frames or 30 minutes."""
    frame_skip: int = 4
    noop_max: int = 0
    """Random no-op steps at an episode's start, at most."""

    def __post_init__(self) -> None:
        for field in ("sticky", "epsilon"):
            if not 0 <= getattr(self, field) <= 1:
                raise ConfigError(f"protocol {self.name}: {field} must lie in [0, 1]")
        if self.step_cap < 1 or self.frame_skip < 1 or self.noop_max < 0:
            raise ConfigError(
                f"protocol {self.name}: need step_cap >= 1, frame_skip >= 1 and noop_max >= 0, got "
                f"{self.step_cap}, {self.frame_skip} and {self.noop_max}"
            )


SCALED_QL = Protocol(name="scaled-ql")
"""The paper's evaluation: sticky actions off although the data had them (paper_facts, 1.4)."""
DQN_REPLAY = Protocol(name="dqn-replay", sticky=0.25, epsilon=0.01)
"""How DQN-Replay was recorded: sticky actions 0.25, epsilon down to 0.01."""
QUICK = Protocol(name="quick", sticky=0.25, epsilon=0.01, step_cap=4_500)
"""For minutes on a laptop: DQN-Replay's rules, episodes cut at 4,500 steps (5 minutes of play)."""
PRESETS = {p.name: p for p in (SCALED_QL, DQN_REPLAY, QUICK)}


def preset(name: str) -> Protocol:
    """The protocol of that name; raises ConfigError with a suggestion."""
    if name not in PRESETS:
        raise ConfigError(f"unknown protocol {name!r}; {suggest(name, PRESETS)}")
    return PRESETS[name]


def recording(protocol: Protocol, *, behaviour: str) -> Protocol:
    """The protocol under which a behaviour of its own randomness was recorded: epsilon 0."""
    return replace(protocol, name=f"{protocol.name}/{behaviour}", epsilon=0.0)
