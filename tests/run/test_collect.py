"""Collecting: what a recording holds, and that nothing else is ever seen."""

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ale_py.vector_env import AtariVectorEnv

from scaledq.core import atari
from scaledq.core.errors import ConfigError, DataError, TaskError
from scaledq.core.protocol import Protocol
from scaledq.core.seeds import episode_seed
from scaledq.data.loader import Transitions
from scaledq.data.sources.action_log import NAME, load
from scaledq.data.store import Log, open_store
from scaledq.nets.head import NeckConfig
from scaledq.nets.mlp import MLPConfig
from scaledq.run.collect import (
    CollectConfig,
    Persistent,
    Random,
    Trained,
    behaviour,
    collect,
)
from scaledq.run.config import RunConfig
from scaledq.run.train import train

SHORT = Protocol(name="short", sticky=0.25, step_cap=200)

PROGRAM = """
import signal
import sys
from pathlib import Path
from scaledq.core.protocol import Protocol
from scaledq.run.collect import CollectConfig, collect
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell has it ignored
collect(CollectConfig(tasks=("Pong",), steps=100_000, slots=2), Path(sys.argv[1]))
"""


def digests(store: Path) -> dict[str, str]:
    found = open_store(store)
    return {f"{task}/{log.name}": log.digest for task in found.tasks for log in found[task]}


def ale_alone(log: Log, store: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The log's frames, rewards and ends, as ALE's own vector environment gives them."""
    actions = load(store / log.task.name / log.name / NAME)
    env = AtariVectorEnv(
        atari.parse(log.task.name)[0].rom,
        num_envs=1,
        stack_num=1,
        noop_max=0,
        use_fire_reset=False,
        reward_clipping=False,
        repeat_action_probability=0.25,
    )
    frames, rewards, ends = [], [], []
    for episode in actions.episodes:
        frame, _ = env.reset(seed=np.array([episode.seed]))
        for action in episode.actions:
            frames.append(frame[0, 0])
            frame, reward, terminated, _, _ = env.step(np.array([action], np.int64))
            rewards.append(reward[0])
            ends.append(terminated[0])
        if episode.ended:
            frames.append(frame[0, 0])
            rewards.append(0)
            ends.append(False)
    env.close()
    return np.stack(frames), np.array(rewards), np.array(ends)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("collected")
    cfg = CollectConfig(
        tasks=("SpaceInvaders", "Breakout"),
        steps=901,
        slots=2,
        behaviour=Random(),
        protocol=SHORT,
        seed=3,
    )
    manifests = collect(cfg, store)
    assert [m.name for m in manifests] == ["random-s3-00", "random-s3-01"] * 2
    return store


def test_the_rows_are_what_ale_itself_shows(recorded: Path) -> None:
    found = open_store(recorded)
    logs = (found["SpaceInvaders"][0], found["Breakout"][1])
    for log in logs:
        frames, rewards, ends = ale_alone(log, recorded)
        np.testing.assert_array_equal(log.frames.read().result(), frames)
        np.testing.assert_array_equal(log.reward, rewards)
        np.testing.assert_array_equal(log.terminated, ends)
    assert max(log.reward.max() for log in logs) > 0


def test_every_task_has_its_transitions_shared_by_its_slots(recorded: Path) -> None:
    found = open_store(recorded)
    for task in found.tasks:
        counts = [int((log.action >= 0).sum()) for log in found[task]]
        assert counts == [451, 450]
        assert counts == [log.manifest.counts.transitions for log in found[task]]


def test_ends_are_told_apart_and_followed_by_the_closing_observation(recorded: Path) -> None:
    found = open_store(recorded)
    logs = [log for task in found.tasks for log in found[task]]
    for log in logs:
        ended = np.flatnonzero(log.terminated | log.truncated)
        np.testing.assert_array_equal(np.flatnonzero(log.action == -1), ended + 1)
        assert not (log.terminated & log.truncated).any()
        starts = np.concatenate([[0], ended + 2])
        late = log.truncated[ended]
        np.testing.assert_array_equal((ended - starts[:-1] + 1 == 200), late)
    assert any(log.terminated.any() for log in logs)
    assert any(log.truncated.any() for log in logs)


def test_every_episode_has_a_seed_of_its_own(recorded: Path) -> None:
    log = load(recorded / "Breakout" / "random-s3-01" / NAME)
    seeds = [episode.seed for episode in log.episodes]
    assert seeds == [episode_seed(3, "Breakout", 1, n) for n in range(len(seeds))]
    assert len(set(seeds)) == len(seeds) > 1


def test_a_manifest_says_how_the_log_was_made(recorded: Path) -> None:
    manifest = open_store(recorded)["Breakout"][0].manifest
    assert manifest.behaviour == "random"
    assert manifest.protocol is not None
    assert (manifest.protocol.sticky, manifest.protocol.epsilon) == (0.25, 0.0)
    assert manifest.source == {"kind": "collect", "seed": "3", "slot": "0"}
    assert set(manifest.versions) == {"ale-py", "ROM"}


def test_the_same_seed_records_the_same_and_another_something_else(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        cfg = CollectConfig(tasks=("Pong",), steps=300, slots=2, seed=seed, protocol=SHORT)
        collect(cfg, tmp_path / name)
    a, b, c = (digests(tmp_path / name) for name in "abc")
    assert a == b
    assert not set(a.values()) & set(c.values())


def test_threads_and_neighbours_change_nothing(tmp_path: Path) -> None:
    alone = CollectConfig(tasks=("Pong",), steps=300, slots=2, protocol=SHORT)
    among = CollectConfig(tasks=("Freeway", "Pong"), steps=300, slots=2, protocol=SHORT)
    collect(alone, tmp_path / "alone", threads=1)
    collect(among, tmp_path / "among", threads=2)
    both = digests(tmp_path / "among")
    assert digests(tmp_path / "alone").items() <= both.items()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_recording_is_never_seen_and_can_be_made_anew(
    tmp_path: Path, number: signal.Signals
) -> None:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path)], stderr=-3)
    while not list(tmp_path.glob("Pong/*/frames/zarr.json")):
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(number)
    assert process.wait() != 0
    store = open_store(tmp_path)
    assert store.tasks == ()
    assert store.unfinished
    collect(CollectConfig(tasks=("Pong",), steps=60, slots=2), tmp_path)
    assert [len(log) for log in open_store(tmp_path)["Pong"]] == [30, 30]


def test_a_log_that_exists_is_never_overwritten(recorded: Path) -> None:
    before = digests(recorded)
    cfg = CollectConfig(tasks=("Breakout",), steps=9, slots=2, seed=3, behaviour=Random())
    with pytest.raises(DataError, match="random-s3-00 is finished already"):
        collect(cfg, recorded)
    assert digests(recorded) == before


def test_held_actions_last_as_long_as_asked(tmp_path: Path) -> None:
    cfg = CollectConfig(tasks=("Pong",), steps=2_000, slots=2, behaviour=Persistent(hold=8.0))
    collect(cfg, tmp_path)
    for log in open_store(tmp_path)["Pong"]:
        action = log.action[log.action >= 0]
        # A new action is the old one in a sixth of the draws.
        expected = 8 * 6 / 5
        assert len(action) / (1 + (np.diff(action) != 0).sum()) == pytest.approx(expected, rel=0.3)


def test_a_run_that_was_trained_plays_as_its_policy_does(tmp_path: Path) -> None:
    tasks = ("toy:chain", "toy:mirror")
    short = CollectConfig(tasks=tasks, steps=400, behaviour=Random(), slots=2)
    collect(short, tmp_path / "random")
    cfg = RunConfig(
        tasks=tasks[::-1],
        stores=(str(tmp_path / "random"),),
        encoder=MLPConfig(),
        neck=NeckConfig(embedding="none", width=16),
        transitions=Transitions(stack=1),
        batch_size=16,
        steps=5,
    )
    run = train(cfg, tmp_path / "runs")
    acting = behaviour(str(run.folder))
    assert acting == Trained(run=str(run.folder))
    collect(replace(short, behaviour=replace(acting, epsilon=0.0)), tmp_path / "greedy")
    collect(replace(short, behaviour=replace(acting, epsilon=1.0)), tmp_path / "other")
    policy = run.policy()
    for task in tasks:
        for log in open_store(tmp_path / "greedy")[task]:
            assert (log.name[:-6], log.manifest.behaviour) == (run.name, run.name)
            chosen = policy(log.frames.read().result()[:, None], task=task)
            np.testing.assert_array_equal(chosen[log.action >= 0], log.action[log.action >= 0])
        actions = np.concatenate([log.action for log in open_store(tmp_path / "other")[task]])
        shares = np.bincount(actions[actions >= 0]) / (actions >= 0).sum()
        assert shares.min() > 0.1, "epsilon 1 is random play"


def test_mistakes_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean persistent"):
        behaviour("peristent")
    with pytest.raises(ConfigError, match="at least one for each of the 8 slots"):
        CollectConfig(tasks=("Pong",), steps=7)
    with pytest.raises(ConfigError, match="each once"):
        CollectConfig(tasks=("Pong", "Pong"), steps=100)
    with pytest.raises(ConfigError, match="hold"):
        Persistent(hold=0.5)
    with pytest.raises(TaskError, match="did you mean Pong"):
        collect(CollectConfig(tasks=("Pnog",), steps=100), tmp_path / "store")
    assert not (tmp_path / "store").exists()
