"""Evaluation in several processes plays what one plays, and leaves none of them behind."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from scaledq.core import atari
from scaledq.core.errors import RunError
from scaledq.core.protocol import QUICK, Protocol
from scaledq.nets.head import NeckConfig
from scaledq.nets.nature import NatureConfig
from scaledq.play.rollout import SLOTS, Episode, ordered, play
from scaledq.play.turns import TURN
from scaledq.play.workers import spawn
from scaledq.run import apart, assemble
from scaledq.run.apart import SMALL, WORTH, Work, pieces, play_apart, processes_for
from scaledq.run.config import RunConfig
from scaledq.run.evaluate import evaluate
from scaledq.run.folder import SCORES, WEIGHTS, Run, finish

GAMES = ("Breakout", "Freeway", "Pong")
RULES = Protocol(name="short", sticky=0.25, epsilon=0.05, step_cap=140)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Of a network that has learnt nothing."""
    neck = NeckConfig(embeddings=2, width=8, feature_scale=30.0)
    cfg = RunConfig(tasks=GAMES, encoder=NatureConfig(), neck=neck, protocol=RULES)
    made = Run(tmp_path / "run", cfg, tuple(map(atari.task, GAMES)), {})
    made.folder.mkdir()
    return finish(made, assemble.network(cfg, made.tasks).state_dict(), seconds=1.0)


def work(run: Run, *, tasks: tuple[str, ...] = GAMES, episodes: int = 9) -> Work:
    where = str(run.folder)
    return Work(where, tasks, RULES, episodes, selection="sampled", keep=None, seed=4)


def children(pid: int = 0) -> set[int]:
    """Processes of ours, or of that one, that run."""
    who = pid or os.getpid()
    return {int(word) for word in Path(f"/proc/{who}/task/{who}/children").read_text().split()}


def test_two_processes_play_six_pieces_as_one_plays_the_whole(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, asked = children(), work(run)
    alone = list(play(run.policy(selection="sampled"), GAMES, RULES, episodes=9, seed=4))
    monkeypatch.setattr(apart, "TURN", 4)
    assert len(pieces(asked, 2)) == 6
    together = list(play_apart(asked, 2))
    assert ordered(together, GAMES) == ordered(alone, GAMES)
    assert len({(e.score, e.length) for e in alone}) > 1
    assert children() == before


@given(tasks=st.integers(1, 45), episodes=st.integers(1, 20), processes=st.integers(1, 40))
def test_pieces_are_all_there_is_to_play(tasks: int, episodes: int, processes: int) -> None:
    names = tuple(f"task{k}" for k in range(tasks))
    how = {"selection": "greedy", "keep": None, "seed": 0}
    asked = Work("run", names, RULES, episodes, **how)
    dealt = pieces(asked, processes)
    rows = [(name, p.first + k) for p in dealt for name in p.tasks for k in range(p.slots)]
    assert sorted(rows) == sorted((name, k) for name in names for k in range(min(SLOTS, episodes)))
    assert len(dealt) >= min(processes, len(rows))
    assert all(len(p.tasks) * p.slots <= TURN + p.slots for p in dealt)


def test_evaluation_goes_apart_where_it_is_worth_it_and_scores_the_same(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = evaluate(run, episodes=3)
    (run.folder / SCORES).unlink()
    used: list[int] = []

    def watched(asked: Work, processes: int):
        used.append(processes)
        return play_apart(asked, processes)

    monkeypatch.setattr("scaledq.run.evaluate.play_apart", watched)
    monkeypatch.setattr("scaledq.run.evaluate.processes_for", lambda asked, net: 2)
    there = evaluate(run, episodes=3)
    assert used == [2]
    assert sorted(there, key=str) == sorted(here, key=str)


def test_few_or_toy_episodes_and_large_networks_stay_in_one_process(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.setattr(assemble, "device", lambda: "cpu")
    long = replace(work(run, episodes=60), protocol=QUICK)
    assert WORTH <= 60 * 3 * 1_000
    assert processes_for(long, run.network) == 3  # 24 rows, at least 8 of them each
    assert processes_for(replace(long, tasks=("Pong",)), run.network) == 1
    assert processes_for(replace(long, protocol=RULES), run.network) == 1
    assert processes_for(replace(long, tasks=("toy:chain", *GAMES)), run.network) == 1
    assert processes_for(long, nn.Linear(1, SMALL)) == 1
    monkeypatch.setattr(assemble, "device", lambda: "cuda")
    assert processes_for(long, run.network) == 1


def test_what_goes_wrong_in_a_process_is_said_here(run: Run) -> None:
    before = children()
    (run.folder / WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(RunError, match=r"weights.safetensors cannot be used"):
        list(play_apart(work(run), 2))
    assert children() == before


def test_processes_end_with_who_asked_or_say_that_one_died(run: Run) -> None:
    before = children()
    with closing(play_apart(work(run), 2)) as episodes:
        assert isinstance(next(episodes), Episode)
        assert len(children() - before) == 2
    assert children() == before
    with closing(play_apart(work(run, episodes=200), 2)) as episodes:
        next(episodes)
        os.kill(min(children() - before), signal.SIGKILL)
        with pytest.raises(RunError, match="a process that evaluates has died"):
            list(episodes)
    assert children() == before


def test_a_process_that_died_before_it_was_asked_is_said_too(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dead(module: str, function: str):
        line, process = spawn(module, function)
        process.kill()
        process.wait()
        return line, process

    monkeypatch.setattr(apart, "spawn", dead)
    with pytest.raises(RunError, match="a process that evaluates has died"):
        list(play_apart(work(run), 2))


def test_processes_end_soon_after_a_parent_that_was_killed(run: Run, tmp_path: Path) -> None:
    order = (
        "import sys\n"
        "from scaledq.core.protocol import Protocol\n"
        "from scaledq.run.apart import Work, play_apart\n"
        "rules = Protocol(name='long', epsilon=1.0, step_cap=27_000)\n"
        f"work = Work({str(run.folder)!r}, ('Freeway',), rules, 8, selection='greedy', keep=None,"
        " seed=0)\n"
        "list(play_apart(work, 1))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", order], start_new_session=True)
    deadline = time.monotonic() + 60
    while not (born := children(parent.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    (child,) = born
    parent.kill()
    parent.wait()
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(child)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
