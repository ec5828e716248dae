"""PQN: it records what it does, and no interruption changes a bit of that."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from scaledq.core.config import to_json
from scaledq.core.errors import ConfigError, DataError, DivergedError, RunError
from scaledq.core.protocol import DQN_REPLAY, Protocol
from scaledq.core.task import Task
from scaledq.data.store import open_store
from scaledq.learn.optim import OptimConfig
from scaledq.nets.head import NeckConfig
from scaledq.nets.mlp import MLPConfig
from scaledq.nets.nature import NatureConfig
from scaledq.play import toy
from scaledq.play.envs import make_fleet
from scaledq.run import assemble
from scaledq.run.collect import RECORDINGS, CollectConfig, collect, tapes
from scaledq.run.pqn import PQN, PQNConfig, Rollout
from scaledq.run.recording import Recording
from scaledq.run.signals import Stop
from scaledq.run.stage import Stage

SMALL = PQNConfig(
    encoder=NatureConfig(width=4, layer_norm=True),
    neck=NeckConfig(embedding="none", width=32, layer_norm=True, unit_norm=False),
    rollout=8,
    minibatch=16,
    explore=0.5,
    zeta=2.0,
    log_every=2,
    checkpoint_every=0.0,
)
CFG = CollectConfig(
    tasks=("Breakout", "Freeway"),
    steps=301,
    slots=2,
    behaviour=SMALL,
    protocol=Protocol(name="short", sticky=0.25, step_cap=90),
)
PROGRAM = """
import sys
from pathlib import Path
from scaledq.core.config import from_json
from scaledq.core.errors import ScaledQError
from scaledq.run.collect import CollectConfig, collect
try:
    cfg = from_json(CollectConfig, Path(sys.argv[1]).read_bytes())
    collect(cfg, Path(sys.argv[2]), resume=True)
except ScaledQError as error:
    print(error, file=sys.stderr)
    sys.exit(error.code)
"""


def start(store: Path) -> subprocess.Popen[bytes]:
    """Records in a process of its own."""
    store.mkdir(exist_ok=True)
    (store.parent / "cfg.json").write_bytes(to_json(CFG))
    words = [sys.executable, "-c", PROGRAM, str(store.parent / "cfg.json"), str(store)]
    return subprocess.Popen(words, stderr=subprocess.PIPE)


def interrupt(store: Path, number: signal.Signals, *, after: int) -> int:
    """Records until a checkpoint of step `after` or later is there; returns the exit code."""
    process = start(store)
    folder = store / RECORDINGS / CFG.name / "checkpoints"
    while not any(int(p.name[5:]) >= after for p in folder.glob("step-*")):
        assert process.poll() is None, "it ended before it was interrupted"
        time.sleep(0.01)
    process.send_signal(number)
    code = process.wait()
    process.communicate()
    return code


def files(folder: Path) -> dict[str, bytes]:
    """Everything below a folder, but for recordings' own files."""
    paths = (p for p in folder.rglob("*") if p.is_file() and RECORDINGS not in p.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def metrics(store: Path) -> list[dict]:
    text = (store / RECORDINGS / CFG.name / "metrics.jsonl").read_text()
    return [json.loads(line) | {"seconds": 0} for line in text.splitlines()]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording that nothing interrupted."""
    store = tmp_path_factory.mktemp("pqn") / "store"
    collect(CFG, store)
    return store


def test_the_same_seed_records_and_learns_the_same_and_another_does_not(
    recorded: Path, tmp_path: Path
) -> None:
    collect(CFG, tmp_path / "again")
    assert files(tmp_path / "again") == files(recorded)
    assert metrics(tmp_path / "again") == metrics(recorded)
    collect(replace(CFG, seed=1), tmp_path / "other")
    first, other = open_store(recorded), open_store(tmp_path / "other")
    assert first["Breakout"][0].digest != other["Breakout"][0].digest


def test_killed_stopped_and_out_of_space_it_records_the_same(
    recorded: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    assert interrupt(store, signal.SIGKILL, after=60) == -signal.SIGKILL
    assert interrupt(store, signal.SIGTERM, after=120) == 128 + signal.SIGTERM
    assert open_store(store).tasks == ()
    in_the_way = store / "Freeway" / "pqn-s0-01" / "actions.npz"
    in_the_way.mkdir()
    with pytest.raises(DataError, match="cannot write"):
        collect(CFG, store, resume=True)
    assert len(open_store(store)["Breakout"]) == 2, "some logs are finished, others are not"
    in_the_way.rmdir()
    collect(CFG, store, resume=True)
    assert files(store) == files(recorded)
    assert metrics(store) == metrics(recorded)


def test_metrics_tell_the_mean_scores_of_every_task(recorded: Path) -> None:
    rows = metrics(recorded)
    assert rows[-1]["step"] == 301
    assert rows[0]["epsilon"] > rows[-1]["epsilon"] == SMALL.epsilon
    found = open_store(recorded)
    for task in CFG.tasks:
        episodes = sum(row["episodes"][task] for row in rows)
        assert episodes == sum(log.manifest.counts.episodes for log in found[task])
        total = sum(row["score"].get(task, 0) * row["episodes"][task] for row in rows)
        expected = sum(log.manifest.counts.return_sum for log in found[task])
        assert total == pytest.approx(expected, abs=1e-6)


def test_nothing_but_logs_metrics_and_options_stays_behind(recorded: Path) -> None:
    folder = recorded / RECORDINGS / CFG.name
    left = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert set(left) == {".lock", "metrics.jsonl", "recording.json"}
    with pytest.raises(DataError, match="finished already"):
        collect(replace(CFG, steps=999), recorded)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == left


def test_an_unfinished_recording_wants_to_be_resumed_as_it_was(tmp_path: Path) -> None:
    store = tmp_path / "store"
    assert interrupt(store, signal.SIGINT, after=1) == 128 + signal.SIGINT
    with pytest.raises(RunError, match="--resume"):
        collect(CFG, store)
    with pytest.raises(RunError, match="another recording"):
        collect(replace(CFG, steps=1_000), store, resume=True)


def test_rewards_are_recorded_raw(tmp_path: Path) -> None:
    random = replace(SMALL, explore=1.0)
    collect(replace(CFG, tasks=("SpaceInvaders",), behaviour=random), tmp_path)
    assert max(log.reward.max() for log in open_store(tmp_path)["SpaceInvaders"]) > 1


def agent(cfg: PQNConfig = SMALL, *, tasks: tuple[str, ...] = ("Breakout", "Freeway")) -> PQN:
    fleet = make_fleet(tasks, 2, CFG.protocol)
    fleet.close()
    return assemble.pqn(cfg, fleet.tasks, fleet.task_index, seed=0)


def test_epsilon_falls_from_one_in_a_line_and_stays() -> None:
    cfg = PQNConfig(explore=0.5, epsilon=0.1)
    assert [cfg.epsilon_at(x) for x in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([1, 0.55, 0.1, 0.1])
    assert PQNConfig(explore=0.0).epsilon_at(0.0) == 0.01


def test_random_actions_are_as_many_as_asked_and_within_each_task() -> None:
    pqn = agent(replace(SMALL, zeta=None))
    values = torch.zeros(4, 4)
    values[:, 2] = 1
    chosen = np.stack([pqn.act(values, step=s, epsilon=0.5) for s in range(4_000)])
    np.testing.assert_array_equal(chosen[7], pqn.act(values, step=7, epsilon=0.5))
    for row, actions in enumerate((4, 4, 3, 3)):
        counts = np.bincount(chosen[:, row], minlength=4) / len(chosen)
        expected = [0.5 / actions * (a < actions) + 0.5 * (a == 2) for a in range(4)]
        np.testing.assert_allclose(counts, expected, atol=0.03)


def by_definition(rollout: Rollout, cfg: PQNConfig, t: int, row: int) -> float:
    """Q(lambda)'s target of one step, by recursion (Gallici et al., 2024, section 3.2)."""
    if rollout.terminated[t, row]:
        return rollout.reward[t, row]
    ahead = rollout.ahead[t, row]
    if t + 1 < len(rollout.reward) and not rollout.truncated[t, row]:
        ahead = (1 - cfg.lam) * ahead + cfg.lam * by_definition(rollout, cfg, t + 1, row)
    return rollout.reward[t, row] + cfg.gamma * ahead


def test_learning_moves_q_to_the_lambda_returns() -> None:
    tasks = tuple(Task(name=n, actions=3, frame_shape=(6,), frame_dtype="float32") for n in "ab")
    optim = OptimConfig(lr=3e-3, eps=1e-8, clip=10.0)
    cfg = replace(SMALL, encoder=MLPConfig(), epochs=300, optim=optim)
    pqn = assemble.pqn(cfg, tasks, np.array([0, 0, 1, 1]), seed=0)
    rng = np.random.default_rng(0)
    shape = (8, 4)
    terminated = rng.random(shape) < 0.2
    rollout = Rollout(
        obs=rng.normal(size=(*shape, 4, 6)).astype(np.float32),
        action=rng.integers(3, size=shape),
        reward=rng.choice([-1, 0, 1], size=shape).astype(np.float32),
        terminated=terminated,
        truncated=(rng.random(shape) < 0.2) & ~terminated,
        ahead=rng.normal(size=shape).astype(np.float32),
    )
    pqn.learn(rollout)
    for t in range(8):
        q = pqn.values(rollout.obs[t]).numpy()[np.arange(4), rollout.action[t]]
        expected = [by_definition(rollout, cfg, t, row) for row in range(4)]
        np.testing.assert_allclose(q, expected, atol=0.1)


def test_one_network_learns_the_best_policy_of_two_toys_that_look_alike(tmp_path: Path) -> None:
    toys = (toy.CHAIN, toy.MIRROR)
    cfg = replace(
        SMALL,
        encoder=MLPConfig(widths=(64,), layer_norm=True),
        optim=OptimConfig(lr=1e-3, eps=1e-8, clip=10.0),
        stack=1,
        gamma=toy.CHAIN.discount,
        epsilon=0.2,
        minibatch=64,
        checkpoint_every=1e9,
    )
    what = CollectConfig(
        tasks=tuple(f"toy:{t.name}" for t in toys), steps=6_000, behaviour=cfg, protocol=DQN_REPLAY
    )
    pqn = record(what, cfg, tmp_path)
    for head, each in enumerate(toys):
        pictures = toy.pictures(each, 8)[:, None]
        rows = np.full(len(pictures), head * what.slots)
        best = pqn.values(pictures, rows).argmax(-1).numpy()
        assert toy.expected_score(each, np.eye(len(each.moves))[best]) == pytest.approx(1.0)


def record(cfg: CollectConfig, behaviour: PQNConfig, folder: Path, kind: type[PQN] = PQN) -> PQN:
    """As `collect`, but hands back the agent that learnt."""
    fleet = make_fleet(cfg.tasks, cfg.slots, cfg.protocol, stack=behaviour.stack)
    stage = Stage(fleet, tapes(cfg, fleet.row_tasks, folder, None), steps=cfg.steps, seed=cfg.seed)
    net = assemble.pqn(behaviour, fleet.tasks, fleet.task_index, seed=cfg.seed).net
    pqn = kind(behaviour, net, fleet.task_index, seed=cfg.seed)
    recording = Recording(stage, pqn, folder / "recording")
    recording.begin()
    recording.run(Stop())
    stage.finish()
    fleet.close()
    return pqn


def test_a_truncated_row_looks_ahead_to_its_closing_observation(tmp_path: Path) -> None:
    seen: list[Rollout] = []

    class Watched(PQN):
        def learn(self, rollout: Rollout) -> dict[str, float]:
            seen.append(rollout)
            return {}

    cfg = replace(CFG, tasks=("Breakout",), steps=16, slots=2)
    cfg = replace(cfg, protocol=replace(cfg.protocol, step_cap=3))
    pqn = record(cfg, SMALL, tmp_path, Watched)
    (rollout,) = seen
    for row, log in enumerate(open_store(tmp_path)["Breakout"]):
        frames = log.frames.read().result()
        # Rows 0 1 2 and their closing row 3: an episode of three steps, the cap.
        np.testing.assert_array_equal(rollout.truncated[:3, row], [False, False, True])
        expected = pqn.values(frames[None, :4], np.array([row])).amax().item()
        assert rollout.ahead[2, row] == pytest.approx(expected, abs=1e-5)


def test_a_loss_that_is_not_finite_stops_the_recording(tmp_path: Path) -> None:
    wild = replace(SMALL, optim=OptimConfig(lr=1e30, eps=1e-8))
    with pytest.raises(DivergedError, match=r"lower optim\.lr"):
        collect(replace(CFG, behaviour=wild), tmp_path)
    assert open_store(tmp_path).tasks == ()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rollout", 0),
        ("epochs", 0),
        ("epsilon", 1.5),
        ("lam", -0.1),
        ("reward_clip", 0.0),
        ("zeta", 1.0),
    ],
)
def test_settings_that_make_no_sense_are_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=field):
        replace(PQNConfig(), **{field: value})
