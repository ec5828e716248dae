"""Any gymnasium environment with discrete actions as slots; its observations are the frames."""

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from jaxtyping import Bool, Int, Shaped

from scaledq.core.errors import TaskError
from scaledq.core.protocol import Protocol
from scaledq.core.task import Task
from scaledq.play.envs import Clock, Steps, StickyActions, check_actions


class GymEnvs:
    """Slots that are stepped one after the other; the environment's own time limit also truncates.

    Pictures stay uint8; every other Box becomes float32. Actions are numbered from 0.
    """

    def __init__(self, name: str, slots: int, protocol: Protocol):
        self.slots, self.protocol = slots, protocol
        self._envs = [_make(name) for _ in range(slots)]
        self.task = _task(f"gym:{name}", self._envs[0])
        space = self._envs[0].action_space
        self._first = int(space.start) if isinstance(space, Discrete) else 0
        self._frames = np.zeros((slots, *self.task.frame_shape), self.task.frame_dtype)
        self._clock = Clock(slots, protocol.step_cap)
        self._sticky = StickyActions(slots, protocol.sticky)
        self._actions = np.zeros(slots, np.int64)

    def reset(
        self, mask: Bool[np.ndarray, "slots"], seeds: Int[np.ndarray, "resets"]
    ) -> Shaped[np.ndarray, "slots *frame"]:
        self._clock.start(mask)
        self._sticky.start(mask, seeds)
        for slot, number in zip(np.flatnonzero(mask), seeds, strict=True):
            self._frames[slot], _ = self._envs[slot].reset(seed=int(number))
        return self._frames.copy()

    def send(self, actions: Int[np.ndarray, "slots"]) -> None:
        check_actions(self.task, actions, self.slots)
        self._actions = self._sticky.apply(actions)

    def recv(self) -> Steps:
        reward = np.zeros(self.slots, np.float32)
        terminated, truncated = np.zeros((2, self.slots), bool)
        for slot in np.flatnonzero(self._clock.playing):
            answer = self._envs[slot].step(int(self._actions[slot]) + self._first)
            self._frames[slot], reward[slot], terminated[slot], truncated[slot], _ = answer
        return self._clock.tick(self._frames.copy(), reward, terminated, truncated)

    def close(self) -> None:
        for env in self._envs:
            env.close()


def _make(name: str) -> gymnasium.Env:
    try:
        return gymnasium.make(name)
    except (gymnasium.error.Error, ImportError) as error:
        raise TaskError(f"gym:{name}: {str(error).splitlines()[0]}") from error


def _task(name: str, env: gymnasium.Env) -> Task:
    actions, frames = env.action_space, env.observation_space
    if not isinstance(actions, Discrete):
        raise TaskError(f"{name}: need discrete actions, it has {actions}")
    if not isinstance(frames, Box) or not frames.shape:
        raise TaskError(f"{name}: need observations that are arrays (Box), it has {frames}")
    dtype = "uint8" if frames.dtype == np.uint8 else "float32"
    return Task(name=name, actions=int(actions.n), frame_shape=frames.shape, frame_dtype=dtype)
