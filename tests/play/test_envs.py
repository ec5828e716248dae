"""Slots of any task, and many tasks as one batch: what every environment promises."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field, replace
from itertools import pairwise
from multiprocessing import Pipe

import gymnasium
import numpy as np
import pytest
from ale_py.vector_env import AtariVectorEnv

from scaledq.core.errors import RunError, TaskError
from scaledq.core.protocol import Protocol
from scaledq.play import workers
from scaledq.play.envs import Clock, Fleet, make, make_all, make_fleet

PROTOCOL = Protocol(name="short", sticky=0.25, step_cap=150)
GAMES = ("Breakout", "Qbert")


@dataclass
class Tape:
    """An episode: its seed, and all that was done and seen in it."""

    task: str
    seed: int
    frames: list[np.ndarray]
    actions: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    truncated: bool = False


def random_play(fleet: Fleet, *, steps: int) -> list[Tape]:
    """The whole episodes of random play in every row, each started with a seed of its own."""
    rng = np.random.default_rng(0)
    counts = np.array([fleet.tasks[task].actions for task in fleet.task_index])
    tapes: list[Tape] = []

    def start(mask: np.ndarray) -> list[Tape]:
        seeds = iter(rng.integers(2**31, size=int(mask.sum())).tolist())
        named = [next(seeds) if new else None for new in mask]
        fleet.reset(mask, np.array([seed for seed in named if seed is not None], int))
        return [
            tapes[row]
            if seed is None
            else Tape(fleet.names[row][0], seed, [fleet.obs[row, -1] + 0])
            for row, seed in enumerate(named)
        ]

    tapes, out = start(np.ones(fleet.rows, bool)), []
    for _ in range(steps):
        actions = rng.integers(counts)
        got = fleet.step(actions)
        for row, tape in enumerate(tapes):
            tape.actions.append(int(actions[row]))
            tape.frames.append(got.frames[row])
            tape.rewards.append(float(got.reward[row]))
            tape.truncated = bool(got.truncated[row])
        out += [tapes[row] for row in np.flatnonzero(got.ended)]
        tapes = start(got.ended)
    return out


def test_every_episode_comes_again_when_it_is_played_alone() -> None:
    """First two games in three slots each, in two processes; then each episode by itself."""
    fleet = make_fleet(GAMES, 3, PROTOCOL, stack=1, threads=2)
    episodes = random_play(fleet, steps=310)
    fleet.close()
    assert {(e.task, e.truncated) for e in episodes} >= {("Breakout", False), ("Qbert", True)}
    assert len(episodes) >= 12
    for game in GAMES:
        alone = make(game, 1, PROTOCOL, threads=1)
        for episode in (e for e in episodes if e.task == game):
            frame = alone.reset(np.array([True]), np.array([episode.seed]))
            np.testing.assert_array_equal(frame[0], episode.frames[0])
            ends = []
            for step, action in enumerate(episode.actions):
                alone.send(np.array([action]))
                got = alone.recv()
                np.testing.assert_array_equal(got.frames[0], episode.frames[step + 1])
                assert got.reward[0] == episode.rewards[step]
                ends.append((bool(got.terminated[0]), bool(got.truncated[0])))
            assert not any(map(any, ends[:-1]))
            assert ends[-1] == (not episode.truncated, episode.truncated)


def test_a_truncated_episode_closes_with_the_frame_that_would_have_followed() -> None:
    capped, free = (
        make("Pong", 1, replace(PROTOCOL, step_cap=cap), threads=1) for cap in (40, 1_000)
    )
    for envs in (capped, free):
        envs.reset(np.array([True]), np.array([7]))
    for step in range(40):
        for envs in (capped, free):
            envs.send(np.array([step % 6]))
        got, other = capped.recv(), free.recv()
        np.testing.assert_array_equal(got.frames, other.frames)
        assert not other.ended[0]
        assert bool(got.truncated[0]) == (step == 39)
        assert not got.terminated[0]


def test_an_episode_that_terminates_at_the_cap_has_only_terminated() -> None:
    clock = Clock(3, step_cap=2)
    clock.start(np.array([True, True, False]))
    frames, reward = np.zeros((3, 1)), np.ones(3, np.float32)
    clock.tick(frames, reward, np.zeros(3, bool))
    got = clock.tick(frames, reward, np.array([True, False, True]))
    assert got.terminated.tolist() == [True, False, False]
    assert got.truncated.tolist() == [False, True, False]
    assert got.reward.tolist() == [1, 1, 0]  # the third slot never started


@pytest.mark.parametrize(
    ("name", "cap"), [("Breakout", 10), ("gym:CartPole-v1", 10), ("toy:chain", 10)]
)
def test_a_slot_rests_after_its_end_until_it_is_reset(name: str, cap: int) -> None:
    envs = make(name, 2, Protocol(name="short", step_cap=cap), threads=1)
    envs.reset(np.array([True, True]), np.array([1, 2]))
    still = np.full(2, envs.task.actions - 1)
    ends = 0
    for _ in range(3 * cap):
        envs.send(still)
        got = envs.recv()
        ends += got.ended.astype(int)
    np.testing.assert_array_equal(ends, [1, 1])
    assert not got.reward.any()  # pyright: ignore[reportPossiblyUnboundVariable]
    envs.reset(np.array([False, True]), np.array([3]))
    envs.send(still)
    again = envs.recv()
    assert not again.ended.any()
    envs.close()


def test_gymnasium_environments_play_as_they_do_alone() -> None:
    envs, alone = (
        make("gym:CartPole-v1", 2, replace(PROTOCOL, sticky=0.0)),
        gymnasium.make("CartPole-v1"),
    )
    assert (envs.task.actions, envs.task.frame_shape, envs.task.frame_dtype) == (2, (4,), "float32")
    frames = envs.reset(np.array([True, True]), np.array([11, 12]))
    first, _ = alone.reset(seed=12)
    np.testing.assert_array_equal(frames[1], first)
    over = False
    while not over:
        envs.send(np.array([1, 0]))
        got = envs.recv()
        frame, reward, over, _, _ = alone.step(0)
        np.testing.assert_array_equal(got.frames[1], frame)
        assert (got.reward[1], got.terminated[1]) == (reward, over)
    envs.close()


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("gym:MiniGrid-Empty-5x5-v0", (7, 7, 3)),
        ("gym:minigrid:MiniGrid-Empty-5x5-v0@image", (7, 7, 3)),
        ("gym:MiniGrid-Empty-5x5-v0+FullyObsWrapper", (5, 5, 3)),
        ("gym:MiniGrid-Empty-5x5-v0+ImgObsWrapper+FlattenObservation", (147,)),
        ("gym:MiniGrid-Empty-5x5-v0+RGBImgPartialObsWrapper", (56, 56, 3)),
    ],
)
def test_dictionaries_modules_and_wrappers_are_part_of_a_name(
    name: str, shape: tuple[int, ...]
) -> None:
    """Walking two steps, turning right and walking two more ends in the goal of the empty room."""
    envs = make(name, 2, replace(PROTOCOL, sticky=0.0))
    assert (envs.task.name, envs.task.actions) == (name, 7)
    assert (envs.task.frame_shape, envs.task.frame_dtype) == (shape, "uint8")
    frames = [envs.reset(np.array([True, True]), np.array([1, 2]))]
    for action in (2, 2, 1, 2, 2):
        envs.send(np.array([action, 0]))
        steps = envs.recv()
        frames.append(steps.frames)
    assert steps.terminated.tolist() == [True, False]
    assert 0.9 < steps.reward[0] < 1
    assert all((a[0] != b[0]).any() for a, b in pairwise(frames))
    envs.close()


def test_sticky_actions_repeat_as_often_as_the_protocol_says() -> None:
    """In CartPole a push left lowers the cart's speed and a push right raises it."""
    envs = make("gym:CartPole-v1", 60, replace(PROTOCOL, sticky=0.25, step_cap=8))
    before = envs.reset(np.ones(60, bool), np.arange(60))
    repeated = 0
    for step in range(1, 9):
        action = step % 2
        envs.send(np.full(60, action))
        after = envs.recv().frames
        went_right = after[:, 1] > before[:, 1]
        repeated += int((went_right != action).sum()) if step > 1 else 0
        before = after
    # Alternating actions: the executed one differs from the sent one in p = s (1 - p) of the steps.
    assert repeated / (7 * 60) == pytest.approx(0.2, abs=0.05)


def test_stacks_are_those_of_ales_own_vector_environment() -> None:
    fleet = make_fleet(["Breakout"], 3, replace(PROTOCOL, step_cap=9_999), stack=4, threads=1)
    theirs = AtariVectorEnv(
        "breakout",
        3,
        num_threads=1,
        repeat_action_probability=0.25,
        stack_num=4,
        noop_max=0,
        use_fire_reset=False,
        reward_clipping=False,
    )
    rng = np.random.default_rng(1)
    seeds = rng.integers(2**31, size=3)
    fleet.reset(np.ones(3, bool), seeds)
    np.testing.assert_array_equal(fleet.obs, theirs.reset(seed=seeds)[0])
    ended = np.zeros(3, bool)
    while not ended.any():
        actions = rng.integers(4, size=3)
        ended = fleet.step(actions).ended
        np.testing.assert_array_equal(fleet.obs, theirs.step(actions)[0])
    seeds = rng.integers(2**31, size=ended.sum())
    fleet.reset(ended, seeds)
    first, _ = theirs.reset(seed=seeds, options={"reset_mask": ended})
    np.testing.assert_array_equal(fleet.obs, first)
    for _ in range(5):
        actions = rng.integers(4, size=3)
        fleet.step(actions)
        np.testing.assert_array_equal(fleet.obs, theirs.step(actions)[0])
    fleet.close()


def test_rows_of_a_fleet_are_sorted_by_task_and_tasks_at_rest_do_not_move() -> None:
    fleet = make_fleet(["toy:chain", "toy:maze", "toy:mirror"], 2, Protocol(name="toy"), stack=2)
    assert fleet.task_index.tolist() == [0, 0, 1, 1, 2, 2]
    assert fleet.names[2:4] == [("toy:maze", 0), ("toy:maze", 1)]
    fleet.reset(np.ones(6, bool), np.arange(6))
    assert not fleet.obs[:, 0].any()
    before = fleet.obs.copy()
    right = np.array([1, 1, 3, 3, 3, 3])  # in the maze 3 leads right, in chain and mirror too
    got = fleet.step(np.where(fleet.task_index == 1, 99, right), live=np.array([True, False, True]))
    np.testing.assert_array_equal(fleet.obs[2:4], before[2:4])
    assert not got.frames[2:4].any()
    moved = [0, 1, 4, 5]
    np.testing.assert_array_equal(fleet.obs[moved, 0], before[moved, 1])
    np.testing.assert_array_equal(fleet.obs[moved, 1], got.frames[moved])


def test_a_fleet_refuses_frames_of_unequal_shape() -> None:
    with pytest.raises(TaskError, match=r"toy:chain has uint8 \[8, 8\], gym:CartPole-v1 float32"):
        make_fleet(["toy:chain", "gym:CartPole-v1"], 1, PROTOCOL)


@pytest.mark.parametrize("name", ["Breakout", "toy:chain", "gym:CartPole-v1"])
def test_an_action_outside_the_tasks_set_is_refused(name: str) -> None:
    envs = make(name, 2, PROTOCOL, threads=1)
    envs.reset(np.ones(2, bool), np.arange(2))
    last = envs.task.actions - 1
    for wrong in (last + 1, -1):
        with pytest.raises(TaskError, match=rf"has actions 0 to {last}, got {wrong}"):
            envs.send(np.array([0, wrong]))
    with pytest.raises(TaskError, match=r"need actions \[2\], got \[3\]"):
        envs.send(np.zeros(3, int))
    envs.close()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Breakuot", "did you mean Breakout"),
        ("Breakout:hard", "a variant is written Breakout:m<mode>d<difficulty>"),
        ("gym:CartPool-v1", "Did you mean: `CartPole`"),
        ("gym:Pendulum-v1", "need discrete actions"),
        ("gym:Blackjack-v1", r"are arrays .*; gym:Blackjack-v1\+FlattenObservation has"),
        ("gym:CartPole-v1", "at least one slot"),
        ("gym:CartPole-v1@image", "leave out @image"),
        ("gym:CartPole-v1+FrameStak", "did you mean"),
        ("gym:CartPole-v1+ResizeObservation", "does not fit"),
        ("gym:MiniGrid-Empty-5x5-v0@imag", "did you mean image"),
        ("gym:MiniGrid-Emty-5x5-v0", "MiniGrid-Emty-5x5"),
        ("gym:nosuch:Thing-v0", "nosuch"),
    ],
)
def test_what_cannot_be_played_is_refused_in_one_line(name: str, message: str) -> None:
    slots = 0 if "slot" in message else 1
    with pytest.raises(TaskError, match=message) as caught:
        make(name, slots, PROTOCOL)
    assert "\n" not in str(caught.value)


def test_without_ale_py_one_line_says_what_to_install() -> None:
    program = """
import sys
sys.modules["ale_py"] = None
from scaledq.core.errors import TaskError
from scaledq.core.protocol import QUICK
from scaledq.play.envs import make
make("toy:chain", 1, QUICK)
try:
    make("Breakout", 1, QUICK)
except TaskError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "Atari games need ale-py, which is not installed; run: pip install scaledq[atari]"
    ]


def test_a_fleet_that_cannot_be_made_leaves_no_process_behind() -> None:
    before = children()
    with pytest.raises(TaskError, match="Nonsense"):
        make_all(["Breakout", "Nonsense"], 2, PROTOCOL, threads=2)
    assert children() == before


def test_a_dead_emulator_process_is_told_and_the_others_end() -> None:
    before = children()
    fleet = make_fleet(["Breakout"], 2, PROTOCOL, threads=2)
    fleet.reset(np.ones(2, bool), np.arange(2))
    os.kill(min(children() - before), signal.SIGKILL)
    with pytest.raises(RunError, match="emulator process has died"):
        fleet.step(np.zeros(2, int))
    fleet.close()
    assert children() == before


def test_what_is_asked_together_travels_as_one_message() -> None:
    ours, theirs = Pipe()
    line = workers.Line(ours)  # pyright: ignore[reportArgumentType]
    line.ask("step", 1)
    line.ask("step", 2)
    assert not theirs.poll()
    line.flush()
    line.flush()
    assert theirs.recv() == [("step", 1), ("step", 2)]
    assert not theirs.poll()
    theirs.send([("one", None), (None, TaskError("two"))])
    assert line.answer() == "one"
    with pytest.raises(TaskError, match="two"):
        line.answer()
    theirs.close()
    with pytest.raises(RunError, match="has died"):
        line.answer()


def test_one_process_for_one_slot_and_more_for_more() -> None:
    before = children()
    fleet = make_fleet(["Breakout"], 1, PROTOCOL, threads=0)
    assert children() == before
    fleet.close()
    assert isinstance(workers.Crew(2).lines, list)


def children() -> set[int]:
    """Processes of ours that run."""
    me = os.getpid()
    with open(f"/proc/{me}/task/{me}/children") as file:
        return {int(word) for word in file.read().split()}
