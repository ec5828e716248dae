"""Atari games as slots: the default game through ALE's own vector environment, variants by hand.

Frames are 84x84 grey: the maximum of the last two emulator frames, resized by area.
"""

import os
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from scaledq.core import atari
from scaledq.core.errors import TaskError
from scaledq.core.protocol import Protocol
from scaledq.core.seeds import stream
from scaledq.core.task import Task
from scaledq.play.envs import Clock, Steps, check_actions

try:
    import ale_py
    from ale_py import roms
    from ale_py.vector_env import AtariVectorEnv
except ImportError as error:
    raise TaskError(
        "Atari games need ale-py, which is not installed; run: pip install scaledq[atari]"
    ) from error


class GameEnvs:
    """A game in its default mode and difficulty, emulated by ALE's worker threads."""

    def __init__(self, name: str, slots: int, protocol: Protocol, *, threads: int = 0):
        self.task, self.slots, self.protocol = atari.task(name), slots, protocol
        game, _, _ = atari.parse(name)
        rom_path(game)
        self._env = AtariVectorEnv(
            game.rom,
            slots,
            num_threads=threads,
            # The cap is counted here: ALE's own stops before the step's last frame is drawn.
            max_num_frames_per_episode=(protocol.step_cap + 1) * protocol.frame_skip,
            repeat_action_probability=protocol.sticky,
            stack_num=1,
            frameskip=protocol.frame_skip,
            noop_max=protocol.noop_max,
            reward_clipping=False,
            use_fire_reset=False,
        )
        check_action_count(self.task, len(self._env.ale.get_action_set()))
        self._clock = Clock(slots, protocol.step_cap)
        self._fresh = True

    def reset(
        self, mask: Bool[np.ndarray, "slots"], seeds: Int[np.ndarray, "resets"]
    ) -> UInt8[np.ndarray, "slots 84 84"]:
        if self._fresh and not mask.all():  # ALE wants its first reset to be of all slots
            self._env.reset(seed=np.zeros(self.slots, np.int64))
        self._fresh = False
        self._clock.start(mask)
        frames, _ = self._env.reset(seed=seeds.astype(np.int64), options={"reset_mask": mask})
        return frames[:, 0]

    def send(self, actions: Int[np.ndarray, "slots"]) -> None:
        check_actions(self.task, actions, self.slots)  # ALE would wait for ever for a wrong one
        self._env.send(actions.astype(np.int64))

    def recv(self) -> Steps:
        frames, reward, terminated, _, _ = self._env.recv()
        return self._clock.tick(frames[:, 0], reward.astype(np.float32), terminated)

    def close(self) -> None:
        self._env.close()


class VariantEnvs:
    """A game in any mode and difficulty; the vector environment knows the default ones only.

    In the default mode it sees, scores and ends exactly as `GameEnvs` (without no-op starts).
    """

    def __init__(self, name: str, slots: int, protocol: Protocol, *, threads: int = 0):
        self.task, self.slots, self.protocol = atari.task(name), slots, protocol
        game, mode, difficulty = atari.parse(name)
        self._games = [_Emulator(game, mode, difficulty, protocol) for _ in range(slots)]
        check_action_count(self.task, len(self._games[0].actions))
        self._frames = np.zeros((slots, *self.task.frame_shape), np.uint8)
        self._clock = Clock(slots, protocol.step_cap)
        self._pool = ThreadPoolExecutor(threads or min(slots, os.cpu_count() or 1))
        self._pending: dict[int, Future] = {}

    def reset(
        self, mask: Bool[np.ndarray, "slots"], seeds: Int[np.ndarray, "resets"]
    ) -> UInt8[np.ndarray, "slots 84 84"]:
        self._clock.start(mask)
        chosen = np.flatnonzero(mask).tolist()
        games = [self._games[slot] for slot in chosen]
        starts = self._pool.map(_Emulator.reset, games, seeds.tolist())
        for slot, frame in zip(chosen, starts, strict=True):
            self._frames[slot] = frame
        return self._frames.copy()

    def send(self, actions: Int[np.ndarray, "slots"]) -> None:
        check_actions(self.task, actions, self.slots)
        self._pending = {
            slot: self._pool.submit(self._games[slot].step, int(actions[slot]))
            for slot in np.flatnonzero(self._clock.playing).tolist()
        }

    def recv(self) -> Steps:
        reward, terminated = np.zeros(self.slots, np.float32), np.zeros(self.slots, bool)
        for slot, step in self._pending.items():
            self._frames[slot], reward[slot], terminated[slot] = step.result()
        return self._clock.tick(self._frames.copy(), reward, terminated)

    def close(self) -> None:
        self._pool.shutdown()


class _Emulator:
    """One emulator with ALE's own preprocessing, mode and difficulty set."""

    def __init__(self, game: atari.Game, mode: int, difficulty: int, protocol: Protocol):
        self.rom, self.mode, self.difficulty = rom_path(game), mode, difficulty
        self.skip, self.noop_max = protocol.frame_skip, protocol.noop_max
        self.ale = ale_py.ALEInterface()
        self.ale.setLoggerMode(ale_py.LoggerMode.Error)
        self.ale.setFloat("repeat_action_probability", protocol.sticky)
        self.ale.loadROM(self.rom)
        self._check_variant(game.name)
        self.actions = self.ale.getMinimalActionSet()
        self.screens = np.zeros((2, *self.ale.getScreenDims()), np.uint8)

    def _check_variant(self, name: str) -> None:
        modes, difficulties = self.ale.getAvailableModes(), self.ale.getAvailableDifficulties()
        if self.mode not in modes or self.difficulty not in difficulties:
            raise TaskError(
                f"{name} has no variant m{self.mode}d{self.difficulty}; it has modes "
                f"{', '.join(map(str, modes))} and difficulties {', '.join(map(str, difficulties))}"
            )

    def reset(self, seed: int) -> UInt8[np.ndarray, "84 84"]:
        self.ale.setInt("random_seed", seed)
        self.ale.loadROM(self.rom)  # only this makes the emulator draw from the new seed
        self.ale.setMode(self.mode)
        self.ale.setDifficulty(self.difficulty)
        self.ale.reset_game()
        for _ in range(stream(seed, "noop").integers(self.noop_max + 1)):
            self.ale.act(ale_py.Action.NOOP)
        self.ale.getScreenGrayscale(self.screens[0])
        self.screens[1] = 0
        return self._frame()

    def step(self, action: int) -> tuple[np.ndarray, int, bool]:
        """Frame, reward and whether the game is over. As in ALE, it stops at a game's end
        without drawing it: the closing frame is the last one that was drawn."""
        reward, over = 0, False
        for left in range(self.skip, 0, -1):
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


def rom_path(game: atari.Game) -> Path:
    """Where ale-py keeps the game's ROM; TaskError if it has none."""
    try:
        path = roms.get_rom_path(game.rom)
    except (FileNotFoundError, LookupError) as error:
        raise TaskError(f"{game.name}: its ROM is damaged or missing ({error})") from error
    if path is None or not Path(path).exists():
        raise TaskError(
            f"{game.name}: ale-py {ale_py.__version__} has no ROM {game.rom}.bin; "
            "reinstall ale-py or choose another game"
        )
    return Path(path)


def check_action_count(task: Task, actions: int) -> None:
    """Raises TaskError if this ALE's minimal action set is not the one the task was defined by."""
    if actions != task.actions:
        raise TaskError(
            f"{task.name} has {task.actions} actions, but ale-py {ale_py.__version__} "
            f"says {actions}; install another version of ale-py"
        )


def shrink(screen: UInt8[np.ndarray, "height width"]) -> UInt8[np.ndarray, "84 84"]:
    """The mean of the screen under each of 84x84 cells, bit for bit OpenCV's INTER_AREA.

    Exact halves are common (the cells' areas are rational) and fall as float32 sums in this order
    make them fall: columns first, then rows, each from the lowest index up.
    """
    columns, rows = _cells(screen.shape[1], 84), _cells(screen.shape[0], 84)
    picture = screen.astype(np.float32)
    narrow = np.zeros((screen.shape[0], 84), np.float32)
    for index, weight in zip(*columns, strict=True):
        narrow += picture[:, index] * weight
    small = np.zeros((84, 84), np.float32)
    for index, weight in zip(*rows, strict=True):
        small += narrow[index] * weight[:, None]
    return np.rint(small).astype(np.uint8)


@cache
def _cells(
    length: int, cells: int
) -> tuple[Int[np.ndarray, "taps C"], Float[np.ndarray, "taps C"]]:
    """Which of `length` points each of the equal cells covers, and what part of it each one is."""
    scale = length / cells
    taps = int(np.ceil(scale)) + 1
    index, weight = np.zeros((taps, cells), np.int64), np.zeros((taps, cells), np.float32)
    for cell in range(cells):
        low, high = cell * scale, (cell + 1) * scale
        points = np.arange(int(low), int(low) + taps)
        covered = np.minimum(points + 1, high) - np.maximum(points, low)
        kept = (covered > 1e-3) & (points < length)
        index[: kept.sum(), cell] = points[kept]
        weight[: kept.sum(), cell] = covered[kept] / scale
    return index, weight
