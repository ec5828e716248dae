"""How an agent that learns chooses its actions: the best by its values, or now and then any.

Shapes: R rows (environments of all tasks), A actions.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from scaledq.core.errors import ConfigError
from scaledq.core.seeds import stream

LONGEST = 10_000
"""Times that one random action is repeated, at most."""


def epsilon_at(progress: float, *, last: float, explore: float) -> float:
    """The share of random actions: from 1 in a line to `last` at the fraction `explore`.

    Args:
      progress: how much of the recording is done, 0 to 1.
    """
    left = max(0.0, 1.0 - progress / explore) if explore else 0.0
    return last + (1.0 - last) * left


def check_zeta(field: str, zeta: float | None) -> None:
    """Raises ConfigError unless it is none or a power of which the zeta distribution exists."""
    if zeta is not None and not 1 < zeta <= 10:
        raise ConfigError(f"{field}: must lie above 1 and at most at 10, or be none, got {zeta}")


class Explorer:
    """Epsilon-greedy, each row among its own actions.

    Args:
      choices: int64 [R], how many actions the task of each row has.
      seed: names the numbers that are drawn, by step.
      zeta: a random action is repeated n times with a probability as n ** -zeta, through the end of
        an episode too (epsilon-z-greedy, Dabney et al., 2021, section 4; theirs is 2); none: once.
    """

    def __init__(
        self, choices: Int[np.ndarray, "R"], *, seed: int, zeta: float | None = None
    ) -> None:
        self.choices, self.seed, self.zeta = choices, seed, zeta
        self._held = np.zeros(len(choices), np.int64)
        self._left = np.zeros(len(choices), np.int64)

    def act(
        self, values: Float[Tensor, "R A"], *, step: int, epsilon: float
    ) -> Int[np.ndarray, "R"]:
        """The best actions, but with probability epsilon a random one begins where none lasts."""
        draw = stream(self.seed, "explore", step)
        dice, random = draw.random((2, len(values)))
        begins = dice < epsilon
        other = (random * self.choices).astype(np.int64)
        if self.zeta is not None:
            begins &= self._left == 0
            lengths = np.minimum(draw.zipf(self.zeta, len(values)), LONGEST)
            self._held = other = np.where(begins, other, self._held)
            self._left = np.where(begins, lengths, self._left)
            begins = self._left > 0
            self._left = np.maximum(self._left - 1, 0)
        return np.where(begins, other, values.argmax(-1).cpu().numpy())

    def scalars(self) -> dict[str, list[int]]:
        """What a checkpoint must keep of it; nothing where a random action is over at once."""
        if self.zeta is None:
            return {}
        return {"held": self._held.tolist(), "left": self._left.tolist()}

    def load(self, scalars: Mapping[str, Any]) -> None:
        """Inverse of `scalars`."""
        if self.zeta is not None:
            self._held, self._left = (np.array(scalars[name]) for name in ("held", "left"))
