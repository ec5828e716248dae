"""How an agent that learns chooses its actions: the best by its values, or now and then any.

Shapes: R rows (environments of all tasks), A actions.
"""

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from scaledq.core.seeds import stream


def epsilon_at(progress: float, *, last: float, explore: float) -> float:
    """The share of random actions: from 1 in a line to `last` at the fraction `explore`.

    Args:
      progress: how much of the recording is done, 0 to 1.
    """
    left = max(0.0, 1.0 - progress / explore) if explore else 0.0
    return last + (1.0 - last) * left


class Explorer:
    """Epsilon-greedy, each row among its own actions.

    Args:
      choices: int64 [R], how many actions the task of each row has.
      seed: names the numbers that are drawn, by step.
    """

    def __init__(self, choices: Int[np.ndarray, "R"], *, seed: int) -> None:
        self.choices, self.seed = choices, seed

    def act(
        self, values: Float[Tensor, "R A"], *, step: int, epsilon: float
    ) -> Int[np.ndarray, "R"]:
        """The best actions, but each random with probability epsilon."""
        dice, random = stream(self.seed, "explore", step).random((2, len(values)))
        other = (random * self.choices).astype(np.int64)
        return np.where(dice < epsilon, other, values.argmax(-1).cpu().numpy())
