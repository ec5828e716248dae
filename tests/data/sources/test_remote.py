"""Sources that are not on this disk: on a web server, in a bucket on an S3 server, in memory.

The servers are real ones, in processes of their own.
"""

from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest
import unplugged
from test_arrays import table, write_npz, write_parquet
from test_minari import SPACES
from test_minari import write as write_minari

from scaledq.core.errors import DataError
from scaledq.data.sources.arrays import Arrays
from scaledq.data.sources.dqn_replay import DQNReplay
from scaledq.data.sources.minari import Minari
from scaledq.data.sources.replay_files import part
from scaledq.data.sources.rl_unplugged import RLUnplugged
from scaledq.data.sources.synthetic import toy_episodes, write_dqn_replay
from scaledq.data.store import open_store


def nothing(rows: int) -> None:
    pass


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """One source of every kind, below one folder."""
    root = tmp_path / "files"
    episodes = toy_episodes(np.random.default_rng(0), lengths=[40] * 6, actions=4)
    write_dqn_replay(root / "dqn" / "Breakout" / "1" / "replay_logs", episodes)
    rng = np.random.default_rng(0)
    shard = [unplugged.episode(rng, n, 9) for n in range(3)]
    unplugged.write_shard(root / "rlu" / "Breakout" / "run_1-00000-of-00001", shard)
    write_npz(root / "npz" / "shop" / "part-0.npz", table())
    write_parquet(root / "parquet" / "shop" / "part-0.parquet", table())
    write_minari(root / "minari", SPACES["vector"])
    return root


@pytest.fixture
def web(files: Path, serve: Callable[..., int]) -> str:
    return f"http://127.0.0.1:{serve('web.py', str(files))}"


KINDS = {
    "dqn": DQNReplay,
    "rlu": RLUnplugged,
    "npz": Arrays,
    "parquet": Arrays,
    "minari": Minari,
}


def digests(source: str, kind: str, store: Path) -> list[str]:
    for piece in KINDS[kind](source=source).pieces():
        piece.write(str(store), nothing)
    opened = open_store(store)
    return [log.digest for task in opened.tasks for log in opened[task]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_web_server_gives_what_the_disk_gives(files: Path, tmp_path, web: str, kind: str) -> None:
    there = digests(f"{web}/{kind}", kind, tmp_path / "there")
    assert there == digests(str(files / kind), kind, tmp_path / "here")
    assert len(there) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_bucket_gives_what_the_disk_gives(files: Path, tmp_path, s3: str, kind: str) -> None:
    fsspec.filesystem("s3").put(str(files / kind), f"{s3}/{kind}", recursive=True)
    there = digests(f"{s3}/{kind}", kind, tmp_path / "there")
    assert there == digests(str(files / kind), kind, tmp_path / "here")
    assert len(there) == 1


def test_what_a_bucket_lacks_is_named(s3: str) -> None:
    with pytest.raises(DataError, match=f"cannot list {s3}/dqn"):
        DQNReplay(source=f"{s3}/dqn").pieces()
    with pytest.raises(DataError, match="cannot list s3://nobucket/dqn"):
        DQNReplay(source="s3://nobucket/dqn").pieces()


@pytest.mark.parametrize("kind", KINDS)
def test_memory_gives_what_the_disk_gives(files: Path, tmp_path: Path, kind: str) -> None:
    memory = fsspec.filesystem("memory")
    for path in (files / kind).rglob("*"):
        if path.is_file():
            memory.pipe(f"/remote/{path.relative_to(files)}", path.read_bytes())
    there = digests(f"memory://remote/{kind}", kind, tmp_path / "there")
    assert there == digests(str(files / kind), kind, tmp_path / "here")
    memory.rm("/remote", recursive=True)


def test_what_a_server_lacks_is_named(files: Path, tmp_path: Path, web: str) -> None:
    (files / "dqn" / "Breakout" / "1" / "replay_logs" / part("action", 1)).unlink()
    with pytest.raises(DataError, match=r"127\.0\.0\.1.*action_ckpt\.1\.gz is missing"):
        DQNReplay(source=f"{web}/dqn").pieces()
    with pytest.raises(DataError, match="cannot list"):
        DQNReplay(source=f"{web}/nowhere", tasks=("Pong",)).pieces()
    with pytest.raises(DataError, match="cannot list"):
        DQNReplay(source="http://127.0.0.1:9/dqn").pieces()


def test_an_unknown_scheme_is_one_error() -> None:
    with pytest.raises(DataError, match="cannot list gopher://x"):
        DQNReplay(source="gopher://x").pieces()
