"""Atari games as slots, in any mode and difficulty: what `play` knows about ALE's games."""

import os
import re
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, UInt8

from scaledq.core import atari
from scaledq.core.errors import TaskError
from scaledq.core.protocol import PRESETS, Protocol
from scaledq.play.envs import Clock, Steps, check_actions

try:
    import ale_py
    from ale_py import roms
except ImportError as error:
    raise TaskError(
        "Atari games need ale-py, which is not installed; run: pip install scaledq[atari]"
    ) from error

from scaledq.play.emulator import Emulator, Setup
from scaledq.play.workers import REST, Crew, Emulators, Here, There


class AtariEnvs:
    """A game in its default variant (`Breakout`) or another one (`Breakout:m12d0`).

    Args:
      crew: the processes that emulate; without one, this process does.

    Raises:
      TaskError: no such game or variant, its ROM is missing, or its actions are not the expected.
    """

    def __init__(self, name: str, slots: int, protocol: Protocol, *, crew: Crew | None = None):
        self.task, self.slots = atari.task(name), slots
        game = setup(name, protocol)
        self._emulators: Emulators = There(crew, game, slots) if crew else Here(game, slots)
        self._clock = Clock(slots, protocol.step_cap)
        self._mask = np.zeros(slots, bool)

    def reset(
        self, mask: Bool[np.ndarray, "slots"], seeds: Int[np.ndarray, "resets"]
    ) -> UInt8[np.ndarray, "slots 84 84"]:
        self.begin(mask, seeds)
        return self.begun()

    def begin(self, mask: Bool[np.ndarray, "slots"], seeds: Int[np.ndarray, "resets"]) -> None:
        self._clock.start(mask)
        self._mask = mask
        self._emulators.begin(np.flatnonzero(mask), seeds)

    def begun(self) -> UInt8[np.ndarray, "slots 84 84"]:
        frames = np.zeros((self.slots, *self.task.frame_shape), np.uint8)
        frames[self._mask] = self._emulators.begun()
        return frames

    def send(self, actions: Int[np.ndarray, "slots"]) -> None:
        check_actions(self.task, actions, self.slots)
        self._emulators.send(np.where(self._clock.playing, actions, REST))

    def recv(self) -> Steps:
        return self._clock.tick(*self._emulators.recv())

    def flush(self) -> None:
        self._emulators.flush()

    def close(self) -> None:
        self._emulators.close()


def setup(name: str, protocol: Protocol) -> Setup:
    """What runs a task; a name without a variant leaves mode and difficulty to the game."""
    game, mode, difficulty = atari.parse(name)
    default = ":" not in name
    return Setup(
        game=game.name,
        rom=str(rom_path(game)),
        mode=None if default else mode,
        difficulty=None if default else difficulty,
        sticky=protocol.sticky,
        frame_skip=protocol.frame_skip,
        noop_max=protocol.noop_max,
    )


class ColourScreen:
    """An episode in colour for people to see, played again from its seed."""

    other_view = False
    """It shows what the frames show."""

    def __init__(self, name: str, protocol: Protocol, seed: int):
        self._skip, self._emulator = protocol.frame_skip, Emulator(setup(name, protocol))
        self._emulator.reset(seed)
        self.picture: UInt8[np.ndarray, "height width 3"] = self._emulator.ale.getScreenRGB()

    def step(self, action: int) -> None:
        """Carries out the action; the picture then is the maximum of the last two screens."""
        ale, shots = self._emulator.ale, []
        for _ in range(self._skip):
            ale.act(self._emulator.actions[action], 1.0)
            shots.append(ale.getScreenRGB())
        self.picture = np.maximum(shots[-1], shots[max(-2, -len(shots))])


def joystick(name: str) -> list[str]:
    """What the task's actions are called, such as `up fire`."""
    actions = Emulator(setup(name, PRESETS["quick"])).actions
    return [" ".join(re.findall("noop|up|down|left|right|fire", a.name.lower())) for a in actions]


def enlist(threads: int, slots: int) -> Crew | None:
    """A crew of `threads` processes (0: one a core) for that many slots; None if one is enough."""
    allowed = getattr(os, "sched_getaffinity", None)  # only Linux has it
    cores = len(allowed(0)) if allowed else os.cpu_count() or 1
    processes = min(threads or cores, slots)
    return Crew(processes) if processes > 1 else None


def rom_path(game: atari.Game) -> Path:
    """Where ale-py keeps the game's ROM; TaskError if it has none, or a damaged one."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of unknown games; the error below is ours
            path = roms.get_rom_path(game.rom)
    except OSError as error:
        raise TaskError(f"{game.name}: its ROM is missing or damaged: {error}") from error
    if path is None:
        raise TaskError(
            f"{game.name}: ale-py {ale_py.__version__} has no ROM {game.rom}.bin; "
            "choose another game, or another version of ale-py"
        )
    return Path(path)
