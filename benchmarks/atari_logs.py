"""Real Atari logs for the benchmarks beside this file: each random action is held for a while."""

from pathlib import Path

import numpy as np
from ale_py.vector_env import AtariVectorEnv

from scaledq.core import atari
from scaledq.core.protocol import QUICK
from scaledq.data.store import Store, open_store
from scaledq.data.writer import LogWriter

HARD = ("Freeway", "UpNDown", "RoadRunner", "Enduro")
"""The games of quickstart: much moves on their screens."""
OTHERS = ("Breakout", "Pong", "Seaquest", "SpaceInvaders")
HOLD, BLOCK, ENVS = 16, 256, 4


def collect(store: Path, games: tuple[str, ...], *, rows: int) -> Store:
    """Writes about `rows` rows of each game, in four logs each."""
    for game in games:
        task = atari.task(game)
        envs = AtariVectorEnv(
            atari.parse(game)[0].rom,
            num_envs=ENVS,
            stack_num=1,
            noop_max=0,
            use_fire_reset=False,
            reward_clipping=False,
            repeat_action_probability=QUICK.sticky,
        )
        writers = [
            LogWriter(
                store,
                task,
                f"slot{slot}",
                behaviour="persistent",
                protocol=QUICK,
                source={},
                versions={},
            )
            for slot in range(ENVS)
        ]
        _play(envs, writers, task.actions, blocks=-(-rows // (BLOCK * ENVS)))
        envs.close()
    return open_store(store)


def _play(envs: AtariVectorEnv, writers: list[LogWriter], actions: int, *, blocks: int) -> None:
    """After an end the environment ignores one action: that row only closes the episode."""
    rng = np.random.default_rng(0)
    frames = np.empty((ENVS, BLOCK, 84, 84), np.uint8)
    columns = [np.empty((ENVS, BLOCK), dtype) for dtype in ("int16", "float32", "bool", "bool")]
    seen, _ = envs.reset(seed=0)
    held, over = rng.integers(actions, size=ENVS), np.zeros(ENVS, bool)
    for _ in range(blocks):
        for at in range(BLOCK):
            held = np.where(rng.random(ENVS) < 1 / HOLD, rng.integers(actions, size=ENVS), held)
            frames[:, at] = seen[:, 0]
            seen, reward, terminated, truncated, _ = envs.step(held)
            row = (np.where(over, -1, held), reward, terminated, truncated)
            for column, values in zip(columns, row, strict=True):
                column[:, at] = values
            over = terminated | truncated
        for slot, writer in enumerate(writers):
            writer.append(frames[slot], *(column[slot] for column in columns))
    for writer in writers:
        writer.finish()
