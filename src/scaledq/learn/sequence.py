"""How sequences are modelled: what return is to come, what was done, what was paid for it.

The multi-game decision transformer and its clone without returns (Lee et al., 2022),
https://arxiv.org/abs/2205.15241, section 3. Shapes: B windows, T steps, A actions, Z returns.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from scaledq.core.batch import Windows
from scaledq.core.config import config
from scaledq.core.errors import ConfigError
from scaledq.core.outputs import HeadSpec, Network, Outputs
from scaledq.learn.bc import Loss
from scaledq.learn.cql import masked


def return_class(
    value: Float[Tensor, "B"], *, low: int, high: int, width: float
) -> Int[Tensor, "B"]:
    """The nearest of the returns low, low + 1, ... high - 1, in units of `width`.

    What lies beyond an end counts as that end.
    """
    nearest = (value / width).round().clamp(low, high - 1)
    return nearest.nan_to_num(0).long() - low


def reward_class(reward: Float[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """0 negative, 1 none, 2 positive."""
    return reward.sign().long() + 1


def nll(logits: Float[Tensor, "B T Z"], target: Int[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Cross-entropy to a class, in nats."""
    return -logits.log_softmax(-1).gather(-1, target[..., None])[..., 0]


def over_steps(values: Float[Tensor, "B T"], real: Bool[Tensor, "B T"]) -> Float[Tensor, "B"]:
    """Each window's mean over its real steps."""
    return (values * real).sum(-1) / real.sum(-1)


@config
class SequenceCloning:
    """Cross-entropies to the logged action and to the reward's sign, at every step."""

    kind: Literal["bc_transformer"] = "bc_transformer"

    @property
    def heads(self) -> tuple[HeadSpec, ...]:
        """A transformer has its own."""
        return ()

    @property
    def td(self) -> None:
        """There is no TD error in it."""
        return None

    @property
    def bootstraps(self) -> bool:
        """No target network is held."""
        return False

    @property
    def returns(self) -> int:
        """Z: there are no return tokens."""
        return 0

    def preferences(self, outputs: Outputs) -> Float[Tensor, "B A"]:
        """Logits of the last step; -inf for actions that the task lacks."""
        return masked(outputs["policy"][:, -1], outputs["available"])

    def answer(self, net: Network, windows: Windows) -> Outputs:
        """The network's outputs for these windows."""
        paid = reward_class(windows.reward)
        return net(windows.frames, windows.task, windows.action, paid, noise=windows.noise)

    def __call__(self, net: Network, target_net: Network, windows: Windows) -> Loss:
        return _steps(self.answer(net, windows), windows)


@config
class DecisionTransformer:
    """The same, and the first step's return to go, which the actions then know."""

    kind: Literal["dt"] = "dt"
    low: int = -20
    high: int = 100
    """Returns are told apart from `low` to `high` - 1: 120 classes, as in the released code."""
    return_width: float = 1.0
    """What one of them stands for, in units of the clipped rewards."""
    kappa: float = 10.0
    """How much a return's place between low and high counts in play: log P(R) + kappa * place
    (section 3.4)."""

    def __post_init__(self) -> None:
        if self.low >= self.high - 1 or not 0 < self.return_width < float("inf"):
            raise ConfigError(
                "objective needs at least two returns from low to high - 1 and return_width > 0, "
                f"got {self.low}, {self.high} and {self.return_width}"
            )
        if not 0 <= self.kappa < float("inf"):
            raise ConfigError(f"objective.kappa must be 0 or more, got {self.kappa}")

    @property
    def heads(self) -> tuple[HeadSpec, ...]:
        """A transformer has its own."""
        return ()

    @property
    def td(self) -> None:
        """There is no TD error in it."""
        return None

    @property
    def bootstraps(self) -> bool:
        """No target network is held."""
        return False

    @property
    def returns(self) -> int:
        """Z"""
        return self.high - self.low

    def classes(self, windows: Windows) -> Int[Tensor, "B"]:
        """The class of each window's return to go."""
        return return_class(
            windows.return_to_go, low=self.low, high=self.high, width=self.return_width
        )

    def preferences(self, outputs: Outputs) -> Float[Tensor, "B A"]:
        """Logits of the last step; -inf for actions that the task lacks."""
        return masked(outputs["policy"][:, -1], outputs["available"])

    def answer(self, net: Network, windows: Windows) -> Outputs:
        """The network's outputs for these windows."""
        paid, to_go = reward_class(windows.reward), self.classes(windows)
        arguments = (windows.frames, windows.task, windows.action, paid, to_go)
        return net(*arguments, noise=windows.noise)

    def __call__(self, net: Network, target_net: Network, windows: Windows) -> Loss:
        outputs = self.answer(net, windows)
        loss, terms = _steps(outputs, windows)
        to_go = F.cross_entropy(outputs["return"], self.classes(windows), reduction="none")
        return loss + to_go, terms | {"return_nll": to_go.detach()}


SequenceObjective = DecisionTransformer | SequenceCloning


def _steps(outputs: Outputs, windows: Windows) -> Loss:
    """What actions and rewards lose, over the real steps."""
    available = outputs["available"][:, None].expand_as(outputs["policy"])
    logits = outputs["policy"].masked_fill(~available, -torch.inf)
    action = over_steps(nll(logits, windows.action), windows.real)
    reward = over_steps(nll(outputs["reward"], reward_class(windows.reward)), windows.real)
    return action + reward, {"nll": action.detach(), "reward_nll": reward.detach()}


@torch.no_grad()
def of_windows(
    objective: SequenceObjective, outputs: Outputs, windows: Windows
) -> dict[str, Tensor]:
    """How often the likeliest action, reward and return are the data's."""
    available = outputs["available"][:, None].expand_as(outputs["policy"])
    choice = outputs["policy"].masked_fill(~available, -torch.inf).argmax(-1)
    paid = outputs["reward"].argmax(-1)
    values = {
        "agreement": (choice == windows.action)[windows.real].float().mean(),
        "reward_accuracy": (paid == reward_class(windows.reward))[windows.real].float().mean(),
    }
    if isinstance(objective, DecisionTransformer):
        right = outputs["return"].argmax(-1) == objective.classes(windows)
        values["return_accuracy"] = right.float().mean()
    return values
