"""Any gymnasium environment with discrete actions as slots; its observations are the frames.

Its name says how it is made: `gym:[module:]ID[@key][+Wrapper...]`, as in `gym:CartPole-v1`,
`gym:minigrid:MiniGrid-Empty-5x5-v0`, `gym:MiniGrid-FourRooms-v0@image+RGBImgPartialObsWrapper`.
"""

import re
from enum import Enum
from importlib import import_module
from importlib.util import find_spec

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from jaxtyping import Bool, Int, Shaped, UInt8

from scaledq.core.errors import TaskError, suggest
from scaledq.core.protocol import Protocol
from scaledq.core.task import Task
from scaledq.play.envs import Clock, Steps, StickyActions, check_actions


class GymEnvs:
    """Slots that are stepped one after the other; the environment's own time limit also truncates.

    Pictures stay uint8; every other Box becomes float32. Actions are numbered from 0. Of an
    observation that is a dictionary, the frame is the entry `@key`, or else its only Box.
    """

    def __init__(self, name: str, slots: int, protocol: Protocol, *, rendered: bool = False):
        self.slots, self.protocol = slots, protocol
        self._envs = [_make(name, rendered=rendered) for _ in range(slots)]
        self._key = _key(name, self._envs[0])
        self.task = _task(f"gym:{name}", self._envs[0], self._key)
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
            seen, _ = self._envs[slot].reset(seed=int(number))
            self._frames[slot] = seen[self._key] if self._key else seen
        return self._frames.copy()

    def send(self, actions: Int[np.ndarray, "slots"]) -> None:
        check_actions(self.task, actions, self.slots)
        self._actions = self._sticky.apply(actions)

    def recv(self) -> Steps:
        reward = np.zeros(self.slots, np.float32)
        terminated, truncated = np.zeros((2, self.slots), bool)
        for slot in np.flatnonzero(self._clock.playing):
            answer = self._envs[slot].step(int(self._actions[slot]) + self._first)
            seen, reward[slot], terminated[slot], truncated[slot], _ = answer
            self._frames[slot] = seen[self._key] if self._key else seen
        return self._clock.tick(self._frames.copy(), reward, terminated, truncated)

    @property
    def action_names(self) -> list[str] | None:
        """If the environment has names: an enumeration `actions`, as MiniGrid, or ALE's method."""
        own = self._envs[0].unwrapped
        meanings = getattr(own, "get_action_meanings", None)
        named = getattr(own, "actions", None)
        names: list[str] = []
        if callable(meanings):
            names = [str(name).lower() for name in np.atleast_1d(meanings())]  # pyright: ignore
        elif isinstance(named, type) and issubclass(named, Enum):
            names = [action.name for action in named]
        return names if len(names) == self.task.actions else None

    def render(self) -> UInt8[np.ndarray, "height width 3"]:
        """The first slot as people see it; TaskError where what draws it is not installed."""
        try:
            return np.asarray(self._envs[0].render(), np.uint8)
        except gymnasium.error.Error as error:
            raise TaskError(f"{self.task.name} cannot be drawn: {error}") from error

    def close(self) -> None:
        for env in self._envs:
            env.close()


class Rendering:
    """An episode as the environment draws it for people, played again from its seed."""

    other_view = True
    """It may show more, or other things, than the frames."""

    def __init__(self, name: str, protocol: Protocol, seed: int):
        self._envs = GymEnvs(name, 1, protocol, rendered=True)
        self._envs.reset(np.array([True]), np.array([seed]))
        self.picture: UInt8[np.ndarray, "height width 3"] = self._envs.render()

    def step(self, action: int) -> None:
        """Carries out the action, and draws what it led to."""
        self._envs.send(np.array([action]))
        self._envs.recv()
        self.picture = self._envs.render()


def rendering(name: str, protocol: Protocol, seed: int) -> Rendering | None:
    """The episode drawn, or None if the environment draws nothing."""
    env = _make(name)
    env.close()
    modes = env.unwrapped.metadata.get("render_modes", [])
    return Rendering(name, protocol, seed) if "rgb_array" in modes else None


def _parse(name: str) -> tuple[str, str, list[str]]:
    """(environment, key or nothing, wrappers)."""
    named, *wrappers = name.split("+")
    environment, _, key = named.partition("@")
    return environment, key, wrappers


def _make(name: str, *, rendered: bool = False) -> gymnasium.Env:
    environment, _, wrappers = _parse(name)
    try:
        _register(environment)
        env = gymnasium.make(environment, render_mode="rgb_array" if rendered else None)
    except (gymnasium.error.Error, ImportError, ValueError) as error:
        raise TaskError(f"gym:{name}: {str(error).splitlines()[0]}") from error
    for wrapper in wrappers:
        try:
            env = _wrapper(wrapper, env)(env)
        except (AssertionError, TypeError, ValueError) as error:
            reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
            raise TaskError(f"gym:{name}: {wrapper} does not fit: {reason[0]}") from error
    return env


def _register(environment: str) -> None:
    """Imports the package that an id is named after: it may not have told gymnasium of itself."""
    if ":" in environment or environment in gymnasium.registry:
        return
    package = re.match("[a-z0-9_]*", re.split("[-/]", environment.lower())[0])
    if package and package.group() and find_spec(package.group()):
        import_module(package.group())


def _wrapper(name: str, env: gymnasium.Env) -> type[gymnasium.Wrapper]:
    """Gymnasium's wrapper of that name, or one of the environment's own package."""
    places = [gymnasium.wrappers]
    own = f"{type(env.unwrapped).__module__.partition('.')[0]}.wrappers"
    if find_spec(own.partition(".")[0]) and find_spec(own):
        places.append(import_module(own))
    kinds = {
        known: kind
        for place in places
        for known, kind in vars(place).items()
        if isinstance(kind, type) and issubclass(kind, gymnasium.Wrapper)
    }
    if name not in kinds:
        raise TaskError(f"no wrapper {name!r}; {suggest(name, kinds)}")
    return kinds[name]


def _key(name: str, env: gymnasium.Env) -> str:
    """Which entry of a dictionary is the frame; nothing where observations are no dictionaries."""
    frames, wanted = env.observation_space, _parse(name)[1]
    if not isinstance(frames, Dict):
        if wanted:
            raise TaskError(f"gym:{name}: its observations are no dictionary; leave out @{wanted}")
        return ""
    arrays = [key for key, space in frames.spaces.items() if isinstance(space, Box)]
    if wanted in arrays or (not wanted and len(arrays) == 1):
        return wanted or arrays[0]
    raise TaskError(
        f"gym:{name}: say which part of the observation is the frame, as in "
        f"gym:{_parse(name)[0]}@key; {suggest(wanted, arrays)}"
    )


def _task(name: str, env: gymnasium.Env, key: str) -> Task:
    actions, frames = env.action_space, env.observation_space
    if isinstance(frames, Dict):
        frames = frames[key]
    if not isinstance(actions, Discrete):
        raise TaskError(f"{name}: need discrete actions, it has {actions}")
    if not isinstance(frames, Box) or not frames.shape:
        flat = f"; {name}+FlattenObservation has" if frames.is_np_flattenable else ""
        raise TaskError(f"{name}: need observations that are arrays (Box), it has {frames}{flat}")
    dtype = "uint8" if frames.dtype == np.uint8 else "float32"
    return Task(name=name, actions=int(actions.n), frame_shape=frames.shape, frame_dtype=dtype)
