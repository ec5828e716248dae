"""One Atari emulator, seeded and preprocessed as ALE's own vector environment does it.

Frames are 84x84 grey: the maximum of the last two screens, resized by area. ALE can be seeded only
by loading the ROM again, which costs it 0.1 s or 200 steps; here a start costs what ALE's own
unseeded reset does, because the seeded generator is written into a saved state instead.
"""

from dataclasses import dataclass
from functools import cache

import ale_py
import numpy as np
from jaxtyping import Float, Int, UInt8

from scaledq.core.errors import TaskError
from scaledq.core.seeds import stream
from scaledq.play.envs import Reel

SIDE = 84


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What an emulator runs, and how."""

    game: str
    rom: str
    """Path of the ROM."""
    mode: int | None
    """None for the game's default."""
    difficulty: int | None
    sticky: float
    frame_skip: int
    noop_max: int


class Emulator:
    """A game that is played from seeds.

    Raises:
      TaskError: the game has no such mode or difficulty.
    """

    def __init__(self, setup: Setup):
        self.setup = setup
        self.ale = _load(setup, seed=0)
        self.actions = self.ale.getMinimalActionSet()
        self.screens = np.zeros((2, *self.ale.getScreenDims()), np.uint8)
        self._start = _find_start(self.ale)

    def reset(self, seed: int) -> UInt8[np.ndarray, "84 84"]:
        """Starts the episode of that seed, 0 to 2**31 - 1; returns its first frame."""
        if self._start is None:
            self.ale = _load(self.setup, seed)
        else:
            self.ale.restoreState(ale_py.ALEState(self._start.seeded(seed)))
        self.ale.reset_game()
        for _ in range(stream(seed, "noop").integers(self.setup.noop_max + 1)):
            self.ale.act(ale_py.Action.NOOP, 1.0)
        self.ale.getScreenGrayscale(self.screens[0])
        self.screens[1] = 0
        return self._frame()

    def step(self, action: int) -> tuple[UInt8[np.ndarray, "84 84"], int, bool]:
        """Frame, raw reward and whether the game is over.

        As in ALE, the screen on which a game ends is not looked at: the closing frame is made of
        the last two that were.
        """
        reward, over = 0, False
        for left in range(self.setup.frame_skip, 0, -1):
            reward += self.ale.act(self.actions[action], 1.0)
            over = self.ale.game_over()
            if over:
                break
            if left <= 2:
                self.ale.getScreenGrayscale(self.screens[left - 1])
        return self._frame(), reward, over

    def _frame(self) -> UInt8[np.ndarray, "84 84"]:
        np.maximum(self.screens[0], self.screens[1], out=self.screens[0])
        return shrink(self.screens[0])


class Game:
    """An emulator that plays known actions, under a cap on an episode's steps.

    Raises:
      TaskError: as Emulator.
    """

    def __init__(self, setup: Setup, step_cap: int):
        self.step_cap, self._emulator, self._age = step_cap, Emulator(setup), 0

    def play(self, actions: Int[np.ndarray, "t"], seed: int | None) -> Reel:
        """Takes these actions until the episode ends; a seed starts a new episode first."""
        first = None
        if seed is not None:
            first, self._age = self._emulator.reset(seed), 0
        actions = actions[: self.step_cap - self._age]
        frames = np.empty((len(actions), SIDE, SIDE), np.uint8)
        reward = np.zeros(len(actions), np.float32)
        taken, over = 0, False
        for action in actions.tolist():
            frames[taken], reward[taken], over = self._emulator.step(action)
            taken += 1
            if over:
                break
        self._age += taken
        late = self._age >= self.step_cap and not over
        return Reel(first, frames[:taken], reward[:taken], over, late)


def _load(setup: Setup, seed: int) -> ale_py.ALEInterface:
    """An emulator of that seed, ready for `reset_game`."""
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # before it greets
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", setup.sticky)
    ale.setInt("random_seed", seed)
    ale.loadROM(setup.rom)
    if setup.mode is not None and setup.difficulty is not None:
        _check_variant(setup, ale.getAvailableModes(), ale.getAvailableDifficulties())
        ale.setMode(setup.mode)
        ale.setDifficulty(setup.difficulty)
    return ale


def _check_variant(setup: Setup, modes: list[int], difficulties: list[int]) -> None:
    if setup.mode not in modes or setup.difficulty not in difficulties:
        raise TaskError(
            f"{setup.game} has no variant m{setup.mode}d{setup.difficulty}; it has modes "
            f"{', '.join(map(str, modes))} and difficulties {', '.join(map(str, difficulties))}"
        )


def _find_start(ale: ale_py.ALEInterface) -> "_Start | None":
    """What freshly loaded emulators have in common with this one of seed 0: all but the generator.

    None where choosing the mode draws numbers already (Double Dunk, Berzerk), or if this ALE saves
    states otherwise: then every episode loads the ROM.
    """
    start = _Start.split(ale.cloneState(include_rng=True).serialize(), _generator(0))
    if start is None:
        return None
    ale.restoreState(ale_py.ALEState(start.seeded(1)))
    understood = ale.cloneState(include_rng=True).serialize() == start.seeded(1)
    return start if understood else None


@dataclass(frozen=True, slots=True)
class _Start:
    """A saved state without its generator: a header, the length of the body, the body, a footer."""

    header: bytes
    body: bytes
    """As far as the generator, which ends it."""
    footer: bytes

    @classmethod
    def split(cls, state: bytes, generator: bytes) -> "_Start | None":
        """None if the generator is not there, or no length of a body that it ends."""
        at, end = state.rfind(generator), state.rfind(generator) + len(generator)
        for field in range(0, min(64, at), 4):
            if int.from_bytes(state[field : field + 4], "little") == end - field - 4:
                return cls(state[:field], state[field + 4 : at], state[end:])
        return None

    def seeded(self, seed: int) -> bytes:
        """The state that loading with that seed leads to."""
        body = self.body + _generator(seed)
        return self.header + len(body).to_bytes(4, "little") + body + self.footer


def _generator(seed: int) -> bytes:
    """A freshly seeded std::mt19937 as ALE saves it: its length, then 624 words and a position.

    NumPy's legacy seeding is the same one.
    """
    _, words, position, *_ = np.random.RandomState(seed).get_state(legacy=True)
    text = " ".join(map(str, [*np.asarray(words).tolist(), position])).encode()
    return len(text).to_bytes(4, "little") + text


def shrink(screen: UInt8[np.ndarray, "height width"]) -> UInt8[np.ndarray, "84 84"]:
    """The mean of the screen under each of 84x84 cells, bit for bit OpenCV's INTER_AREA.

    Exact halves are common (the cells' areas are rational) and fall as float32 sums in this order
    make them fall: along the width first, then the height, each from the lowest index up.
    """
    narrow = _average(np.ascontiguousarray(screen.T).astype(np.float32))
    return np.rint(_average(np.ascontiguousarray(narrow.T))).astype(np.uint8)


def _average(picture: Float[np.ndarray, "length breadth"]) -> Float[np.ndarray, "84 breadth"]:
    taps = _taps(len(picture))
    total = picture[taps[0][0]] * taps[0][1]
    for index, weight in taps[1:]:
        total += picture[index] * weight
    return total


@cache
def _taps(length: int) -> list[tuple[Int[np.ndarray, "C"], Float[np.ndarray, "C 1"]]]:
    """For the first point that each of 84 equal cells covers, the second ...: index and weight."""
    scale = length / SIDE
    taps = int(np.ceil(scale)) + 1
    index, weight = np.zeros((taps, SIDE), np.int64), np.zeros((taps, SIDE, 1), np.float32)
    for cell in range(SIDE):
        low, high = cell * scale, (cell + 1) * scale
        points = np.arange(int(low), int(low) + taps)
        covered = np.minimum(points + 1, high) - np.maximum(points, low)
        kept = (covered > 1e-3) & (points < length)
        index[: kept.sum(), cell] = points[kept]
        weight[: kept.sum(), cell, 0] = covered[kept] / scale
    return [(i, w) for i, w in zip(index, weight, strict=True) if w.any()]
