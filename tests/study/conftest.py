"""Logs for the smoke scale: synthetic ones, and those that its own command makes."""

import shlex
from pathlib import Path

import numpy as np
import pytest

from scaledq.cli import main
from scaledq.core.seeds import stream
from scaledq.core.task import Task
from scaledq.data.writer import LogWriter
from scaledq.study.execute import Place
from scaledq.study.scales import SMOKE, SMOKE_RUN

ROWS, SIDE, ACTIONS = 200, 44, {"Freeway": 3, "Pong": 6}


@pytest.fixture(scope="session")
def smoke_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random pictures and actions under the names of the smoke scale's tasks."""
    return write_smoke(tmp_path_factory.mktemp("smoke") / "store", side=SIDE)


@pytest.fixture(scope="session")
def full_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in pictures as large as the games', to go with what is played."""
    return write_smoke(tmp_path_factory.mktemp("full") / "store", side=84)


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the scale's own command makes."""
    folder = tmp_path_factory.mktemp("study")
    for command in SMOKE.data:
        _, *words = shlex.split(command)
        at = words.index("--store") + 1
        words[at] = str(folder / words[at])
        main(words)
    return folder / "store"


@pytest.fixture(scope="session")
def place(logs: Path) -> Place:
    """Where all studies put their runs."""
    return Place(logs.parent / "runs", (str(logs),))


def write_smoke(store: Path, *, side: int) -> Path:
    """Fills a store."""
    for name in SMOKE_RUN.tasks:
        task = Task(name=name, actions=ACTIONS[name], frame_shape=(side, side))
        rng = stream(0, name)
        with LogWriter(
            store, task, "log", behaviour="random", protocol=None, source={}, versions={}
        ) as log:
            log.append(
                rng.integers(256, size=(ROWS, side, side), dtype=np.uint8),
                rng.integers(task.actions, size=ROWS).astype(np.int16),
                rng.integers(-1, 2, size=ROWS).astype(np.float32),
                np.arange(1, ROWS + 1) % 25 == 0,
                np.zeros(ROWS, dtype=bool),
            )
            log.finish()
    return store
