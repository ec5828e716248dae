"""Decision problems small enough to solve exactly, played like any other task.

`toy:chain-<cells>-<actions>`: a walk along a chain of cells. In each cell one action is right: it
leads a cell on, and from the last one to the end with reward 1. Every other action costs 0.05 and
leads a cell back. Random play wanders for long; the best play scores 1.
"""

import re

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from scaledq.core.errors import TaskError
from scaledq.core.protocol import Protocol
from scaledq.core.task import Task
from scaledq.play.envs import Clock, Steps, StickyActions, check_actions

SIDE, COST = 8, 0.05


class Chain:
    """The chain's rules: `after` [cells actions] is the next cell, `reward` [cells actions].

    The cell number `cells` is the end.
    """

    def __init__(self, cells: int, actions: int):
        self.cells, self.actions = cells, actions
        here = np.arange(cells)
        self.right: Int[np.ndarray, "cells"] = (here * 5 + 1) % actions
        """The right action of each cell."""
        self.after = np.repeat(np.maximum(here - 1, 0)[:, None], actions, 1)
        self.after[here, self.right] = here + 1
        self.reward = np.full((cells, actions), -COST, np.float32)
        self.reward[here, self.right] = 0.0
        self.reward[-1, self.right[-1]] = 1.0

    def optimal_values(self, gamma: float) -> Float[np.ndarray, "cells actions"]:
        """Q*, by value iteration."""
        q = np.zeros((self.cells, self.actions))
        for _ in range(10_000):
            ahead = np.append(q.max(1), 0.0)
            new = self.reward + gamma * ahead[self.after]
            if np.abs(new - q).max() < 1e-12:
                return new
            q = new
        raise AssertionError("value iteration must converge for gamma below 1")

    def frames(self, cell: Int[np.ndarray, "R"]) -> UInt8[np.ndarray, "R 8 8"]:
        """What is seen in each cell: a bright column."""
        return (
            np.where(np.arange(SIDE) == cell[:, None, None], 255, 0)
            .astype(np.uint8)
            .repeat(SIDE, 1)
        )


def chain(name: str) -> Chain:
    """The chain of a task's name, such as `chain-6-3`.

    Raises:
      TaskError: another name, or sizes that do not fit into the picture.
    """
    found = re.fullmatch(r"chain-(\d+)-(\d+)", name)
    if not found:
        raise TaskError(f"unknown toy {name!r}; want toy:chain-<cells>-<actions>")
    cells, actions = int(found[1]), int(found[2])
    if not (2 <= cells <= SIDE and 2 <= actions <= 18):
        raise TaskError(f"toy:{name}: need 2 to {SIDE} cells and 2 to 18 actions")
    return Chain(cells, actions)


class ToyEnvs:
    """Slots of a chain; sticky actions are its only chance."""

    def __init__(self, name: str, slots: int, protocol: Protocol):
        self.slots, self.chain = slots, chain(name)
        self.task = Task(name=f"toy:{name}", actions=self.chain.actions, frame_shape=(SIDE, SIDE))
        self._cell = np.zeros(slots, np.int64)
        self._clock = Clock(slots, protocol.step_cap)
        self._sticky = StickyActions(slots, protocol.sticky)
        self._actions = np.zeros(slots, np.int64)

    def reset(
        self, mask: Bool[np.ndarray, "slots"], seeds: Int[np.ndarray, "resets"]
    ) -> UInt8[np.ndarray, "slots 8 8"]:
        self._clock.start(mask)
        self._sticky.start(mask, seeds)
        self._cell[mask] = 0
        return self.chain.frames(self._cell)

    def send(self, actions: Int[np.ndarray, "slots"]) -> None:
        check_actions(self.task, actions, self.slots)
        self._actions = self._sticky.apply(actions)

    def recv(self) -> Steps:
        at = np.minimum(self._cell, self.chain.cells - 1)
        reward = self.chain.reward[at, self._actions]
        after = self.chain.after[at, self._actions]
        self._cell = np.where(self._clock.playing, after, self._cell)
        over = self._cell == self.chain.cells
        return self._clock.tick(self.chain.frames(self._cell), reward, over)

    def close(self) -> None:
        """Nothing to close."""
