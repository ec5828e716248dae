"""For the tests of `data`: logs of random rows with every kind of ending, and real servers."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from scaledq.core.protocol import Protocol
from scaledq.core.task import Task
from scaledq.data.writer import LogWriter


@dataclass
class Rows:
    """What goes into a log: the truth that tests compare with."""

    frames: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray

    def __len__(self) -> int:
        return len(self.action)

    def __getitem__(self, part: slice) -> "Rows":
        return Rows(*(column[part] for column in self.columns()))

    def columns(self) -> tuple[np.ndarray, ...]:
        return (self.frames, self.action, self.reward, self.terminated, self.truncated)


def _random_rows(task: Task, rows: int, seed: int, *, end: float = 0.15) -> Rows:
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (rows, *task.frame_shape))
    frames = raw if task.frame_dtype == "uint8" else raw + rng.random(raw.shape)
    reward = rng.normal(0, 2, rows).astype(np.float32)
    action = rng.integers(0, task.actions, rows)
    ends = rng.random(rows) < end
    kind = rng.random(rows)
    terminated, truncated = ends & (kind < 0.5), ends & (kind > 0.45)
    closing = np.zeros(rows, bool)
    for row in np.flatnonzero(ends[:-1] & (rng.random(rows - 1) < 0.5)):
        closing[row + 1] = not closing[row]
    action[closing], reward[closing] = -1, 0
    frames = frames.astype(task.frame_dtype)
    return Rows(frames, action, reward, terminated & ~closing, truncated & ~closing)


def _begin(store: Path | str, task: Task, name: str = "log", **options: int) -> LogWriter:
    return LogWriter(
        store,
        task,
        name,
        behaviour="random",
        protocol=Protocol(name="test"),
        source={"made": "by a test"},
        versions={"scaledq": "test"},
        shard=options.get("shard", 32),
        resume=options.get("resume", 0),
    )


def _write(store: Path | str, task: Task, rows: Rows, name: str = "log") -> None:
    with _begin(store, task, name) as writer:
        for start in range(0, len(rows), 50):
            writer.append(*rows[start : start + 50].columns())
        writer.finish()


@pytest.fixture(scope="session")
def random_rows() -> Callable[..., Rows]:
    """(task, rows, seed, *, end): terminations, truncations, joints, with closing rows and not."""
    return _random_rows


@pytest.fixture(scope="session")
def begin() -> Callable[..., LogWriter]:
    """(store, task, name, *, shard, resume): the writer of a new log, with files of 32 frames."""
    return _begin


@pytest.fixture(scope="session")
def write() -> Callable[..., None]:
    """(store, task, rows, name): writes a whole log."""
    return _write


SOURCES = Path(__file__).parent / "sources"


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[..., int]]:
    """(program, *arguments) -> port: starts one of the servers beside the tests of sources."""
    servers = []

    def start(program: str, *arguments: str) -> int:
        command = [sys.executable, str(SOURCES / program), *arguments]
        servers.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL))
        return int(servers[-1].stdout.readline())

    yield start
    for server in servers:
        server.kill()
        server.communicate()


@pytest.fixture(scope="session")
def s3_port(serve: Callable[..., int]) -> int:
    return serve("s3.py")


@pytest.fixture
def s3(s3_port: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty folder of a bucket on a local S3 server that the environment names."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3_port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    return f"s3://bucket/{uuid4()}"
