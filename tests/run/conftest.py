"""Small stores and small runs, made anew for each test that asks."""

from pathlib import Path

import numpy as np
import pytest

from scaledq.core.seeds import stream
from scaledq.core.task import Task
from scaledq.data.loader import Transitions
from scaledq.data.sources.synthetic import toy_episodes, write_dqn_replay
from scaledq.data.writer import LogWriter
from scaledq.learn.optim import OptimConfig
from scaledq.nets.head import NeckConfig
from scaledq.nets.mlp import MLPConfig
from scaledq.run.config import RunConfig

TASKS = (
    Task(name="left", actions=2, frame_shape=(6,)),
    Task(name="right", actions=3, frame_shape=(6,)),
)
ROWS = 300
GAMES = {"Breakout": 4, "Pong": 6, "Freeway": 3}


def write_log(store: Path, task: Task, *, name: str = "log", seed: int = 0) -> None:
    """A finished log of random frames, actions and rewards, with an episode's end every 10 rows."""
    rng = stream(seed, task.name, name)
    ends = np.arange(1, ROWS + 1) % 10 == 0
    with LogWriter(
        store, task, name, behaviour="random", protocol=None, source={}, versions={}
    ) as log:
        log.append(
            rng.integers(256, size=(ROWS, *task.frame_shape), dtype=np.uint8),
            rng.integers(task.actions, size=ROWS).astype(np.int16),
            rng.normal(size=ROWS).astype(np.float32),
            ends,
            np.zeros(ROWS, dtype=bool),
        )
        log.finish()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two tasks of unequal action counts, one log each."""
    for task in TASKS:
        write_log(tmp_path / "store", task)
    return tmp_path / "store"


@pytest.fixture
def small_run(store: Path) -> RunConfig:
    """A run of 30 steps on that store: less than a second."""
    return small_config(store, steps=30)


def small_config(store: Path, *, steps: int) -> RunConfig:
    """A tiny run on both tasks of such a store."""
    return RunConfig(
        tasks=("left", "right"),
        stores=(str(store),),
        encoder=MLPConfig(),
        neck=NeckConfig(embedding="none", width=16),
        optim=OptimConfig(target_every=7),
        transitions=Transitions(stack=2),
        batch_size=16,
        steps=steps,
        log_every=5,
        checkpoint_every=10,
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three games as DQN Replay has them."""
    root = tmp_path / "dqn"
    for number, (game, actions) in enumerate(GAMES.items()):
        rng = np.random.default_rng(number)
        episodes = toy_episodes(rng, lengths=[40] * 6, actions=actions)
        write_dqn_replay(root / game / "1" / "replay_logs", episodes)
    return root
