"""Ingest as a whole: pieces side by side, what a kill leaves, and what a rerun does."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scaledq.core.errors import DataError, RunError
from scaledq.core.files import locked
from scaledq.data.inspect import verify
from scaledq.data.sources.dqn_replay import DQNReplay
from scaledq.data.sources.replay_files import part
from scaledq.data.store import open_store
from scaledq.run.ingest import ingest

from .conftest import GAMES


def test_processes_write_what_one_process_writes(source: Path, tmp_path: Path) -> None:
    summary = ingest(DQNReplay(source=str(source)), tmp_path / "many", workers=3)
    ingest(DQNReplay(source=str(source)), tmp_path / "one", workers=1)
    many, one = open_store(tmp_path / "many"), open_store(tmp_path / "one")
    assert many.tasks == one.tasks == tuple(sorted(GAMES))
    assert [many[t][0].digest for t in GAMES] == [one[t][0].digest for t in GAMES]
    assert not list(verify(many))
    assert sorted(m.task.name for m in summary.written) == sorted(GAMES)
    assert summary.rows == sum(len(many[t][0]) for t in GAMES)


def test_a_rerun_writes_only_what_is_not_finished(source: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    ingest(DQNReplay(source=str(source), tasks=("Pong",)), store)
    before = (store / "Pong" / "run1" / "zarr.json").stat().st_mtime_ns
    summary = ingest(DQNReplay(source=str(source)), store)
    assert summary.skipped == ("Pong/run1",)
    assert {m.task.name for m in summary.written} == {"Breakout", "Freeway"}
    assert (store / "Pong" / "run1" / "zarr.json").stat().st_mtime_ns == before


def test_a_rerun_with_other_choices_is_refused(source: Path, tmp_path: Path) -> None:
    ingest(DQNReplay(source=str(source)), tmp_path / "store")
    with pytest.raises(DataError, match="finished already with files 0-2, asked for 0; choose an"):
        ingest(DQNReplay(source=str(source), files=1), tmp_path / "store")


def test_one_bad_piece_leaves_the_others_and_nothing_half_written(
    source: Path, tmp_path: Path
) -> None:
    path = source / "Pong" / "1" / "replay_logs" / part("observation", 2)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"Pong.*observation_ckpt\.2\.gz"):
        ingest(DQNReplay(source=str(source)), tmp_path / "store", workers=1)
    assert "Pong" not in open_store(tmp_path / "store").tasks


def test_a_second_ingest_into_the_same_store_waits_its_turn(source: Path, tmp_path: Path) -> None:
    with locked(tmp_path / "store"), pytest.raises(RunError, match="in use by another process"):
        ingest(DQNReplay(source=str(source)), tmp_path / "store")


def test_a_store_that_cannot_be_written_is_one_error(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DataError, match="cannot write to"):
        ingest(DQNReplay(source=str(source)), tmp_path / "file" / "store")


SLOW = """
import sys, time
from scaledq.data.sources import piece
from scaledq.data.sources.dqn_replay import DQNReplay
from scaledq.run.ingest import ingest
if __name__ == "__main__":
    ingest(DQNReplay(source=sys.argv[1]), sys.argv[2], workers=int(sys.argv[3]))
"""


def children(pid: int) -> set[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(child) for child in found}


@pytest.mark.parametrize("victim", ["parent", "worker"])
def test_a_kill_leaves_nothing_that_looks_finished_and_a_rerun_completes(
    source: Path, tmp_path: Path, victim: str
) -> None:
    path = source / "Pong" / "1" / "replay_logs" / part("terminal", 1)
    whole = path.read_bytes()
    path.unlink()
    os.mkfifo(path)  # Pong's reader waits here for bytes that do not come
    (tmp_path / "slow.py").write_text(SLOW)
    store = tmp_path / "store"
    command = [sys.executable, str(tmp_path / "slow.py"), str(source), str(store), "1"]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    unfinished = store / "Pong" / "run1" / "frames" / "zarr.json"
    deadline = time.monotonic() + 120
    while not unfinished.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = {pid for pid in children(run.pid) if b"spawn_main" in _command(pid)}
    assert len(workers) == 1
    os.kill(run.pid if victim == "parent" else workers.pop(), signal.SIGKILL)
    _, errors = run.communicate(timeout=60)
    assert run.returncode != 0
    if victim == "worker":
        assert "Pong/run1: its process died (exit code -9)" in errors
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        time.sleep(0.05)  # an orphan leaves by itself
    left = open_store(store)
    assert ("Pong" not in left.tasks, left.unfinished) == (True, ("Pong/run1",))

    path.unlink()
    path.write_bytes(whole)
    summary = ingest(DQNReplay(source=str(source)), store, workers=2)
    assert set(summary.skipped) == {f"{task}/run1" for task in left.tasks}
    again = open_store(store)
    assert again.tasks == tuple(sorted(GAMES))
    assert not list(verify(again))


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
