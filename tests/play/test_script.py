"""Scripts: the same play as step by step, whoever waits for whom."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest

from scaledq.core.errors import RunError, TaskError
from scaledq.core.protocol import DQN_REPLAY, QUICK, Protocol
from scaledq.play.envs import Reel, make
from scaledq.play.script import Cast

STEPS = 40


def step_by_step(name: str, protocol: Protocol, actions: np.ndarray, seed: int) -> Reel:
    """The same script in lock step."""
    envs = make(name, 1, protocol, threads=1)
    first = envs.reset(np.ones(1, bool), np.array([seed]))[0].copy()
    frames, rewards, terminated, truncated = [], [], False, False
    for action in actions:
        envs.send(np.array([action]))
        steps = envs.recv()
        frames.append(steps.frames[0].copy())
        rewards.append(steps.reward[0])
        terminated, truncated = bool(steps.terminated[0]), bool(steps.truncated[0])
        if terminated or truncated:
            break
    envs.close()
    return Reel(first, np.array(frames), np.array(rewards), terminated, truncated)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("cap", [25, 27_000])
@pytest.mark.parametrize("name", ["Breakout", "Freeway:m1d0", "toy:chain", "gym:CartPole-v1"])
def test_a_script_is_what_its_steps_are_one_by_one(name: str, cap: int, threads: int) -> None:
    protocol = replace(DQN_REPLAY, step_cap=cap)
    cast = Cast([name, name], protocol, threads=threads)
    rng = np.random.default_rng(0)
    actions = rng.integers(cast.tasks[0].actions, size=(2, STEPS))
    pieces: dict[int, list[Reel]] = {0: [], 1: []}
    for row in (0, 1):
        cast.send(row, actions[row, :15], seed=row)
    asked = 2
    while asked:
        row, reel = cast.recv()
        asked -= 1
        pieces[row].append(reel)
        if len(pieces[row]) == 1 and not (reel.terminated or reel.truncated):
            cast.send(row, actions[row, 15:])
            asked += 1
    cast.close()
    for row, reels in pieces.items():
        whole = step_by_step(name, protocol, actions[row], seed=row)
        np.testing.assert_array_equal(reels[0].first, whole.first)
        np.testing.assert_array_equal(np.concatenate([r.frames for r in reels]), whole.frames)
        np.testing.assert_array_equal(np.concatenate([r.reward for r in reels]), whole.reward)
        assert (reels[-1].terminated, reels[-1].truncated) == (whole.terminated, whole.truncated)


def test_an_action_outside_the_set_is_refused_before_it_is_played() -> None:
    cast = Cast(["Pong"], QUICK, threads=1)
    with pytest.raises(TaskError, match=r"Pong has actions 0 to 5, got 6"):
        cast.send(0, np.array([0, 6]), seed=0)
    cast.close()


def test_a_variant_that_a_game_lacks_is_refused_and_no_process_is_left() -> None:
    before = children()
    with pytest.raises(TaskError, match="no variant m9d9"):
        Cast(["Pong", "Freeway:m9d9"], QUICK, threads=2)
    assert children() == before


def test_a_dead_process_is_told() -> None:
    before = children()
    cast = Cast(["Pong", "Pong"], QUICK, threads=2)
    for process in children() - before:
        os.kill(process, signal.SIGKILL)

    def ask() -> None:
        cast.send(0, np.zeros(5, np.int64), seed=0)
        cast.recv()

    with pytest.raises(RunError, match="emulator process has died"):
        ask()
    cast.close()
    assert children() == before


def children() -> set[int]:
    """Processes that this one started."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return {int(word) for word in file.read().split()}
