"""Which token stands where in a window of steps, and which tokens may look at which.

A step is its image's patches, its return, its action, its reward: 36 + 3 tokens in Lee et al.
(2022), https://arxiv.org/abs/2205.15241, section 3. Shapes: T steps, P patches, L tokens.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Layout:
    """T steps of P patches each, with a return token in each step or without any."""

    context: int
    patches: int
    returns: bool = True
    """False for the BC transformer."""

    @property
    def step(self) -> int:
        """Tokens of one step."""
        return self.patches + 2 + self.returns

    @property
    def length(self) -> int:
        """L, the tokens of a whole window."""
        return self.context * self.step

    @property
    def choice(self) -> int:
        """Where in its step the action is read out: at the return, or at the last patch."""
        return self.patches - 1 + self.returns

    @property
    def action(self) -> int:
        """Where in its step the action stands, and the reward is read out."""
        return self.choice + 1

    @property
    def reward(self) -> int:
        """Where in its step the reward stands."""
        return self.choice + 2

    def mask(self) -> Bool[Tensor, "L L"]:
        """True where the token of a row may look at the token of a column.

        At every earlier token, at itself, and at all patches of its own image; but nobody looks at
        a return token behind the first step's, not even that token itself: it only asks.
        """
        place = torch.arange(self.length)
        step, within = place // self.step, place % self.step
        image = torch.where(within < self.patches, step, -1 - place)
        seen = (place <= place[:, None]) | (image == image[:, None])
        return seen & ~(self.later_returns())

    def later_returns(self) -> Bool[Tensor, "L"]:
        """The return tokens that nobody sees."""
        place = torch.arange(self.length)
        hidden = (place % self.step == self.patches) & (place > self.patches)
        return hidden if self.returns else torch.zeros_like(hidden)

    def lasting(self, steps: int) -> Int[Tensor, "K"]:
        """Places, in the first `steps` steps, of what a later token sees: no return behind the
        first, and not the last step's action and reward, which are not known yet."""
        place = torch.arange(steps * self.step - 2)
        return place[~self.later_returns()[: len(place)]]
