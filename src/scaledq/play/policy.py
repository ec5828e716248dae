"""Who chooses the actions: a network, or chance.

A policy is asked `act(obs, task, uniform) -> actions`. It owns no randomness: `uniform` holds one
number in [0, 1) for each row, and `Dice` names these numbers by step, so that any of them can be
drawn again. Shapes: R rows, N tasks, A actions, S frames in a stack.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, runtime_checkable
from typing import Protocol as Interface

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from scaledq.core.errors import TaskError, suggest
from scaledq.core.outputs import Network, Outputs
from scaledq.core.seeds import stream
from scaledq.core.task import Task

if TYPE_CHECKING:
    from scaledq.play.envs import Steps

Selection = Literal["greedy", "sampled", "notebook"]
"""How an action is chosen from preferences; the last is a decision transformer's only."""
Obs = Shaped[np.ndarray, "R S *frame"]
Rows = Int[np.ndarray, "R"]
Uniform = Float[np.ndarray, "R"]


@runtime_checkable
class Policy(Interface):
    """Anything that can be played."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks it can play; `act` takes indices into them."""
        ...

    @property
    def stack(self) -> int:
        """S, the frames it wants to see."""
        ...

    def act(self, obs: Obs, task: Rows, uniform: Uniform) -> Rows: ...


@runtime_checkable
class Remembering(Interface):
    """A policy that must be told what became of its actions."""

    def start(self, rows: int) -> None:
        """Episodes begin in so many rows."""
        ...

    def note(self, actions: Rows, steps: "Steps") -> None:
        """What was really done in each row (chance may have interfered), and what it led to."""
        ...


def start(policy: Policy, rows: int) -> None:
    """Tells a policy that remembers that play begins."""
    if isinstance(policy, Remembering):
        policy.start(rows)


def note(policy: Policy, actions: Rows, steps: "Steps") -> None:
    """Tells a policy that remembers what happened."""
    if isinstance(policy, Remembering):
        policy.note(actions, steps)


@dataclass(frozen=True, slots=True)
class Appraisal:
    """What a policy thinks of every action, and which one it takes."""

    values: Float[np.ndarray, "R A"]
    """Values or logits, -inf where unavailable; or probabilities, 0 where unavailable."""
    actions: Int[np.ndarray, "R"]


class NetPolicy:
    """A network's preferences, and how an action is chosen from them.

    Args:
      net: any network that follows `core/outputs.py`.
      preferences: outputs -> [R A], -inf for actions that a row's task lacks; Q-values or logits.
      tasks: the name under which each of the network's heads is played.
      selection: `greedy` takes the highest preference (the first of equal ones), `sampled` draws
        from the softmax of preferences.
      frame: a task whose frames are every task's; observations of other ones are then refused.
    """

    def __init__(
        self,
        net: Network,
        preferences: Callable[[Outputs], Tensor],
        tasks: Sequence[str],
        *,
        stack: int = 4,
        device: torch.device | str = "cpu",
        selection: Selection = "greedy",
        frame: Task | None = None,
    ):
        self.net, self.preferences, self.tasks = net, preferences, tuple(tasks)
        self.stack, self.device, self.frame = stack, device, frame
        self.selection: Selection = selection

    @torch.inference_mode()
    def values(self, obs: Obs, task: Rows) -> Float[np.ndarray, "R A"]:
        """Preferences for every action, one forward pass for all tasks; -inf where unavailable."""
        pictures = torch.from_numpy(np.ascontiguousarray(obs)).to(self.device)
        heads = torch.from_numpy(np.asarray(task, np.int64)).to(self.device)
        return self.preferences(self.net(pictures, heads)).float().cpu().numpy()

    def act(self, obs: Obs, task: Rows, uniform: Uniform) -> Rows:
        return self.appraise(obs, task, uniform).actions

    def appraise(self, obs: Obs, task: Rows, uniform: Uniform) -> Appraisal:
        """Preferences, and the action chosen from them."""
        values = self.values(obs, task)
        return Appraisal(values, choose(values, uniform, selection=self.selection))

    def __call__(
        self, obs: Obs, task: str | None = None, *, rng: np.random.Generator | None = None
    ) -> Rows:
        """Actions for stacks of frames of one task, which may be left out if there is only one.

        Args:
          rng: draws for a sampled policy; without it, each call draws afresh.

        Raises:
          TaskError: an unknown task, or observations that are not [R S *frame].
        """
        if task is None and len(self.tasks) != 1:
            raise TaskError(f"say which task: {', '.join(self.tasks)}")
        head = 0 if task is None else index(self, task)
        self._check(obs)
        uniform = (rng or np.random.default_rng()).random(len(obs))
        return self.act(obs, np.full(len(obs), head), uniform)

    def _check(self, obs: Obs) -> None:
        if self.frame is None:
            if obs.ndim < 3 or obs.shape[1] != self.stack:
                raise TaskError(f"need observations [R {self.stack} *frame], got {list(obs.shape)}")
            return
        shape, dtype = (self.stack, *self.frame.frame_shape), self.frame.frame_dtype
        if obs.shape[1:] != shape or obs.dtype != dtype:
            raise TaskError(
                f"need observations of {dtype} [R {' '.join(map(str, shape))}], got {obs.dtype} "
                f"{list(obs.shape)}"
            )


def ask(
    policy: Policy, obs: Obs, task: Rows, uniform: Uniform, *, rows: Bool[np.ndarray, "R"]
) -> Rows:
    """Actions of the masked rows, other rows' mean nothing.

    A network is asked about no other rows. How many there are decides the last bits of its answers,
    so a tie of two actions may fall otherwise. Policies that may remember are asked about all.
    """
    if rows.all() or not isinstance(policy, NetPolicy):
        return policy.act(obs, task, uniform)
    actions = np.zeros(len(rows), np.int64)
    actions[rows] = policy.act(obs[rows], task[rows], uniform[rows])
    return actions


def index(policy: Policy, task: str) -> int:
    """Which of the policy's tasks that is; raises TaskError with a suggestion."""
    if task not in policy.tasks:
        raise TaskError(f"the policy cannot play {task!r}; {suggest(task, policy.tasks)}")
    return policy.tasks.index(task)


def choose(
    preferences: Float[np.ndarray, "R A"], uniform: Uniform, *, selection: Selection
) -> Rows:
    """One action a row: the preferred one, or drawn from the softmax by inverting its sums."""
    if selection == "greedy":
        return preferences.argmax(-1)
    assert selection == "sampled", "what else there is needs returns: see sequence.py"
    weights = np.exp(preferences.astype(np.float64) - preferences.max(-1, keepdims=True))
    sums = weights.cumsum(-1)
    total = sums[:, -1:]
    last = (sums < total).sum(-1)  # where rounding up may not pass
    return np.minimum((uniform[:, None] * total >= sums).sum(-1), last)


class RandomPolicy:
    """Every action of a task equally often."""

    stack = 1

    def __init__(self, tasks: Sequence[Task]):
        self.tasks = tuple(task.name for task in tasks)
        self._actions = np.array([task.actions for task in tasks])

    def act(self, obs: Obs, task: Rows, uniform: Uniform) -> Rows:
        return scale(uniform, self._actions[task])


class PersistentPolicy:
    """Uniformly random actions, each held for a geometric number of steps.

    Each step draws a new action with probability 1 / hold, and that may be the old one again.
    It remembers what each row holds: one object for one recording or evaluation, and always the
    same rows in the same order.
    """

    stack = 1

    def __init__(self, tasks: Sequence[Task], *, hold: float = 16.0):
        if hold < 1:
            raise TaskError(f"an action is held for at least 1 step, got a mean of {hold}")
        self.tasks, self.hold = tuple(task.name for task in tasks), hold
        self._actions = np.array([task.actions for task in tasks])
        self._held: Rows | None = None

    def act(self, obs: Obs, task: Rows, uniform: Uniform) -> Rows:
        renew = uniform < 1 / self.hold
        drawn = scale(uniform * self.hold % 1, self._actions[task])
        held = drawn if self._held is None else self._held
        self._held = np.where(renew, drawn, held)
        return self._held

    def recall(self, task: Rows, dice: "Dice", step: int) -> None:
        """Takes up what each row held when `step` steps had been taken with these dice."""
        begin, found = step, np.zeros(len(task), bool)
        while begin > 0 and not found.all():
            begin -= 1
            found |= dice.at(begin) < 1 / self.hold
        self._held = None
        if begin:
            self._held = np.zeros(len(task), np.int64)
        for past in range(begin, step):
            self.act(np.empty((len(task), 1, 1)), task, dice.at(past))


class Dice:
    """Numbers in [0, 1), one for each row and step: a function of (seed, name, row, step) alone.

    Rows are named by task and slot, so the numbers do not depend on who else plays.
    """

    BLOCK = 256

    def __init__(self, seed: int, name: str, rows: Sequence[tuple[str, int]]):
        self.seed, self.name, self.rows = seed, name, tuple(rows)
        self._block = lru_cache(maxsize=2)(self._draw)

    def at(self, step: int) -> Uniform:
        """The numbers of one step, whatever was asked before."""
        block, place = divmod(step, self.BLOCK)
        return self._block(block)[place]

    def _draw(self, block: int) -> Float[np.ndarray, "T R"]:
        streams = [stream(self.seed, self.name, task, slot, block) for task, slot in self.rows]
        return np.stack([numbers.random(self.BLOCK) for numbers in streams], axis=1)


def scale(uniform: Uniform, count: Int[np.ndarray, "..."]) -> Rows:
    """Whole numbers 0 to count - 1, equally likely."""
    return np.minimum((uniform * count).astype(np.int64), count - 1)
