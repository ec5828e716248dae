"""Agents that learn from a ring: they find the best policy, and no interruption changes a bit."""

import json
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from scaledq.core.config import from_json, to_json
from scaledq.core.errors import ConfigError, DivergedError, RunError
from scaledq.core.protocol import DQN_REPLAY
from scaledq.data.loader import Transitions
from scaledq.data.ring import RingConfig
from scaledq.data.sources.action_log import load
from scaledq.data.store import open_store
from scaledq.learn.c51 import C51
from scaledq.learn.objective import ScaledQL
from scaledq.learn.optim import OptimConfig
from scaledq.learn.td import MSE
from scaledq.nets.head import NeckConfig
from scaledq.nets.mlp import MLPConfig
from scaledq.nets.nature import NatureConfig
from scaledq.play import toy
from scaledq.play.envs import Fleet
from scaledq.run import assemble
from scaledq.run.checkpoint import checkpoints
from scaledq.run.collect import RECORDINGS, CollectConfig, behaviour, collect, record
from scaledq.run.dqn import DQNConfig
from scaledq.run.recording import Agent
from scaledq.run.replay import Replay, ReplayAgent
from scaledq.run.stage import Stage

TOYS = (toy.CHAIN, toy.MIRROR)
SMALL = DQNConfig(
    encoder=MLPConfig(widths=(64,)),
    neck=NeckConfig(embedding="none", width=64, unit_norm=False),
    optim=OptimConfig(lr=3e-3, eps=1e-5, target_every=10),
    transitions=Transitions(stack=1, n_step=2, gamma=toy.CHAIN.discount),
    replay=Replay(
        ring=RingConfig(capacity=180, frames="zstd"), warmup=80, epsilon=0.2, explore=0.5, zeta=3.0
    ),
    log_every=10,
    checkpoint_every=20,
)
CFG = CollectConfig(
    tasks=tuple(f"toy:{each.name}" for each in TOYS),
    steps=241,
    slots=3,
    behaviour=SMALL,
    protocol=DQN_REPLAY,
)
KINDS = {
    "dqn": ScaledQL(td=MSE(unitary=False, huber=1.0), alpha=0.0),
    "c51": ScaledQL(td=C51(atoms=21, v_min=-0.5, v_max=1.5), alpha=0.0),
}


def make(cfg: CollectConfig, kind: type[ReplayAgent] = ReplayAgent) -> Callable[[Fleet], Agent]:
    """How `collect` makes its agent, but of another class."""

    def agent(fleet: Fleet) -> Agent:
        who = cfg.behaviour
        assert isinstance(who, DQNConfig)
        rows = fleet.task_index
        made = assemble.dqn(who, fleet.tasks, rows, seed=cfg.seed, steps=cfg.steps)
        made.__class__ = kind
        return made

    return agent


def files(folder: Path) -> dict[str, bytes]:
    """Every file of the logs below a folder."""
    paths = (p for p in folder.glob("toy:*/**/*") if p.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def metrics(folder: Path) -> list[dict]:
    text = (folder / "metrics.jsonl").read_text()
    return [json.loads(line) | {"seconds": 0} for line in text.splitlines()]


@pytest.mark.parametrize("name", KINDS)
def test_one_network_learns_the_best_policy_of_two_toys_that_look_alike(
    name: str, tmp_path: Path
) -> None:
    replay = Replay(ring=RingConfig(capacity=2_000), warmup=300, train_every=8, explore=1.0)
    who = replace(SMALL, name=name, objective=KINDS[name], replay=replay)
    cfg = replace(CFG, steps=1_500, slots=8, behaviour=who)
    agent = record(cfg, tmp_path / "store", tmp_path / "own", make(cfg), resume=False).agent
    assert isinstance(agent, ReplayAgent)
    for head, each in enumerate(TOYS):
        pictures = toy.pictures(each, 8)[:, None]
        rows = np.full(len(pictures), head * cfg.slots)
        best = agent.values(pictures, rows).argmax(-1).numpy()
        assert toy.expected_score(each, np.eye(len(each.moves))[best]) == pytest.approx(1.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """A recording that nothing interrupted, and what it had learnt at its end."""
    store = tmp_path_factory.mktemp("replay") / "store"
    agent = record(CFG, store, store / RECORDINGS / "own", make(CFG), resume=False).agent
    return store, agent.tensors()


class PlugPulled(Exception):  # noqa: N818  (not a fault of anybody's)
    """What no program hears of: nothing is saved."""


class Unlucky(ReplayAgent):
    """Its computer loses power in the middle of a round, after so many updates."""

    after = 45

    def _step(self, stage: Stage) -> None:
        if self.learner.step >= self.after and stage.step % 16 == 5:
            raise PlugPulled
        super()._step(stage)


def test_without_power_amid_a_round_it_goes_on_bit_for_bit_ring_and_all(
    whole: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    cfg, (expected, learnt) = CFG, whole
    store = tmp_path / "store"
    own = store / RECORDINGS / "own"
    with pytest.raises(PlugPulled):
        record(cfg, store, own, make(cfg, Unlucky), resume=False)
    assert open_store(store).tasks == ()
    assert [p.name for p in checkpoints(own / "checkpoints")], "there is something to resume"
    with pytest.raises(RunError, match="--resume"):
        record(cfg, store, own, make(cfg), resume=False)
    agent = record(cfg, store, own, make(cfg), resume=True).agent
    assert files(store) == files(expected)
    assert metrics(own) == metrics(expected / RECORDINGS / "own")
    tensors = agent.tensors()
    assert tensors.keys() == learnt.keys()
    assert all(torch.equal(tensors[name], learnt[name]) for name in learnt)


class OutOfSpace(ReplayAgent):
    """From some update on no file may be longer than this."""

    room = 0

    def _step(self, stage: Stage) -> None:
        if self.learner.step >= 45:
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.room, hard))
        super()._step(stage)


def test_convolutions_in_another_layout_go_on_bit_for_bit_too(tmp_path: Path) -> None:
    who = DQNConfig(
        encoder=NatureConfig(width=4),
        neck=NeckConfig(embedding="none", width=16, unit_norm=False),
        batch_size=8,
        replay=Replay(ring=RingConfig(capacity=60), warmup=20),
        checkpoint_every=2,
    )
    assert who.compute.channels_last
    cfg = CollectConfig(tasks=("toy:chain@84",), steps=72, slots=2, behaviour=who)
    kind = type("Early", (Unlucky,), {"after": 4})
    with pytest.raises(PlugPulled):
        record(cfg, tmp_path / "a", tmp_path / "own a", make(cfg, kind), resume=False)
    halves = record(cfg, tmp_path / "a", tmp_path / "own a", make(cfg), resume=True)
    whole = record(cfg, tmp_path / "b", tmp_path / "own b", make(cfg), resume=False)
    ours, theirs = halves.agent.tensors(), whole.agent.tensors()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert files(tmp_path / "a") == files(tmp_path / "b")


@pytest.mark.parametrize("room", [1_000, 100_000], ids=["metrics", "checkpoint"])
def test_a_full_disk_amid_a_recording_is_one_line_and_it_goes_on_bit_for_bit(
    whole: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path, room: int
) -> None:
    cfg, (expected, _) = CFG, whole
    store, own = tmp_path / "store", tmp_path / "own"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    kind = type("Full", (OutOfSpace,), {"room": room})
    try:
        with pytest.raises(RunError, match=r"cannot write .*: File too large; free some") as full:
            record(cfg, store, own, make(cfg, kind), resume=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(full.value)
    assert open_store(store).tasks == ()
    record(cfg, store, own, make(cfg), resume=True)
    assert files(store) == files(expected)
    assert metrics(own) == metrics(expected / RECORDINGS / "own")


def test_a_ring_that_lacks_a_step_of_each_slot_would_have_been_found_out(
    whole: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    class Forgetful(ReplayAgent):
        def resume(self, stage: Stage) -> None:
            super().resume(stage)
            self.ring.cut(stage.playing)

    cfg, (expected, _) = CFG, whole
    store = tmp_path / "store"
    with pytest.raises(PlugPulled):
        record(cfg, store, tmp_path / "own", make(cfg, Unlucky), resume=False)
    record(cfg, store, tmp_path / "own", make(cfg, Forgetful), resume=True)
    assert files(store) != files(expected)


def test_the_same_seed_records_the_same_and_another_does_not(
    whole: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    cfg, (expected, _) = CFG, whole
    plain = replace(SMALL.replay, ring=replace(SMALL.replay.ring, frames="plain"))
    collect(replace(cfg, behaviour=replace(SMALL, replay=plain)), tmp_path / "again")
    assert files(tmp_path / "again") == files(expected)
    own = tmp_path / "again" / RECORDINGS / cfg.name
    assert metrics(own) == metrics(expected / RECORDINGS / "own")
    assert {p.name for p in own.iterdir()} == {".lock", "metrics.jsonl", "recording.json"}
    collect(replace(cfg, seed=1), tmp_path / "other")
    logs = [open_store(tmp_path / name)["toy:chain"][0] for name in ("again", "other")]
    assert logs[0].digest != logs[1].digest


def test_updates_are_as_many_as_the_steps_have_earned(
    whole: tuple[Path, dict[str, torch.Tensor]],
) -> None:
    cfg, (store, _) = CFG, whole
    rows = metrics(store / RECORDINGS / "own")
    assert rows[-1]["transitions"] == 2 * cfg.steps
    assert rows[-1]["step"] == (2 * cfg.steps - 2 * SMALL.replay.warmup) // 4
    assert [row["step"] // 10 for row in rows[:-1]] == list(range(1, len(rows)))
    assert rows[0]["epsilon"] > rows[-1]["epsilon"] == SMALL.replay.epsilon
    assert all(np.isfinite(row["loss"]) for row in rows)
    log = open_store(store)["toy:chain"][0]
    assert log.manifest.behaviour == "dqn"
    assert load(store / "toy:chain" / log.name / "actions.npz").steps == 81


def test_a_loss_that_is_not_finite_stops_the_recording(tmp_path: Path) -> None:
    optim = OptimConfig(lr=1e30, eps=1e-8)
    wild = replace(SMALL, optim=optim, objective=ScaledQL(td=MSE(unitary=False), alpha=0.0))
    with pytest.raises(DivergedError, match=r"Lower optim\.lr"):
        collect(replace(CFG, behaviour=wild), tmp_path)
    assert open_store(tmp_path).tasks == ()


def test_the_behaviours_have_names_and_survive_json() -> None:
    for name, kind in (("dqn", "mse"), ("c51", "c51")):
        who = behaviour(name)
        assert isinstance(who, DQNConfig)
        assert isinstance(who.objective, ScaledQL)
        assert (who.name, who.objective.td.kind, who.objective.alpha) == (name, kind, 0.0)
        cfg = CollectConfig(tasks=("Pong",), steps=30_000, behaviour=who)
        assert cfg.log_names[0] == f"{name}-s0-00"
        assert from_json(CollectConfig, to_json(cfg)) == cfg


def test_no_more_memory_is_reserved_than_the_steps_can_fill() -> None:
    huge = replace(SMALL, replay=replace(SMALL.replay, ring=RingConfig(capacity=10**12)))
    tasks = tuple(toy.task(each.name) for each in TOYS)
    rows = np.array([0, 0, 1, 1])
    ring = assemble.dqn(huge, tasks, rows, seed=0, steps=50).ring
    # Two slots of 25 steps, each step an episode: as many closing rows, and the newest one.
    assert 51 <= ring.length <= 60


@pytest.mark.parametrize(
    ("replay", "said"),
    [
        (Replay(warmup=241), r"replay\.warmup: 241 .* none of 241"),
        (Replay(warmup=10, ring=RingConfig(capacity=8)), r"ring\.capacity: 8 rows over 3"),
    ],
)
def test_what_could_never_learn_is_refused_before_anything_is_written(
    replay: Replay, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        collect(replace(CFG, behaviour=replace(SMALL, replay=replay)), tmp_path)
    assert not [p for p in tmp_path.rglob("*") if p.suffix == ".json"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("train_every", 0), ("warmup", 0), ("epsilon", 1.5), ("explore", -0.1), ("zeta", 0.5)],
)
def test_settings_that_make_no_sense_are_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"replay\.{field}"):
        replace(Replay(), **{field: value})


@pytest.mark.parametrize(("field", "value"), [("name", "a/b"), ("name", ""), ("batch_size", 0)])
def test_an_agent_without_a_name_or_a_batch_is_refused(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"behaviour\.{field}"):
        replace(SMALL, **{field: value})
