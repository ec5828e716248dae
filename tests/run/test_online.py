"""Runs that make their own data: a folder like any other run's, however often interrupted."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from scaledq.core.config import departures
from scaledq.core.errors import ConfigError, RunError, TaskError
from scaledq.core.protocol import DQN_REPLAY, Protocol
from scaledq.data.loader import Transitions
from scaledq.data.ring import RingConfig
from scaledq.data.store import open_store
from scaledq.data.view import First, View
from scaledq.learn.bc import BehaviourCloning
from scaledq.learn.c51 import C51
from scaledq.learn.objective import ScaledQL
from scaledq.learn.optim import OptimConfig
from scaledq.nets.head import NeckConfig
from scaledq.nets.mlp import MLPConfig
from scaledq.play.video import Act
from scaledq.play.video import record as film
from scaledq.run import online
from scaledq.run.checkpoint import checkpoints
from scaledq.run.config import Online, RunConfig, Start
from scaledq.run.evaluate import evaluate
from scaledq.run.folder import Run, open_run
from scaledq.run.replay import Replay, ReplayAgent
from scaledq.run.report import report
from scaledq.run.stage import Stage
from scaledq.run.train import train

SUPPORT = C51(atoms=21, v_min=-0.5, v_max=1.5)
CFG = RunConfig(
    tasks=("toy:chain", "toy:mirror"),
    objective=ScaledQL(td=SUPPORT, alpha=0.0),
    encoder=MLPConfig(widths=(32,)),
    neck=NeckConfig(embedding="none", width=32, unit_norm=False),
    optim=OptimConfig(lr=3e-3, eps=1e-5, target_every=10),
    transitions=Transitions(stack=1, n_step=2, gamma=0.9),
    batch_size=16,
    steps=61,
    protocol=Protocol(name="toy", epsilon=0.0),
    log_every=20,
    checkpoint_every=20,
    checkpoints=1,
    online=Online(replay=Replay(ring=RingConfig(capacity=200), warmup=50), slots=4),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished online run."""
    return train(CFG, tmp_path_factory.mktemp("online") / "runs")


def logs(run: Run) -> dict[str, str]:
    store = open_store(run.folder / "store")
    return {f"{task}/{log.name}": log.digest for task in store.tasks for log in store[task]}


def test_a_run_takes_its_updates_and_no_more_and_keeps_the_logs_of_all_it_did(run: Run) -> None:
    assert run.finished
    assert len(checkpoints(run.folder / "checkpoints")) == CFG.checkpoints == 1
    assert run.name.startswith("online_c51-2tasks-seed0-")
    assert [row["step"] for row in run.metrics] == [21, 41, 61]
    # 122 transitions of each task earn 61 updates, after 50 of each.
    assert run.facts["transitions"] == [172, 172]
    store = open_store(run.folder / "store")
    for task in CFG.tasks:
        assert sum(log.manifest.counts.transitions for log in store[task]) == 172
        assert {log.manifest.behaviour for log in store[task]} == {"online_c51"}
        protocol = store[task][0].manifest.protocol
        assert protocol is not None
        assert protocol.sticky == DQN_REPLAY.sticky


def test_it_is_played_watched_and_reported_as_any_run(run: Run, tmp_path: Path) -> None:
    again = open_run(run.folder)
    rows = evaluate(again, episodes=1)
    assert {row.method for row in rows} == {"online_c51"}
    page = report([again], tmp_path / "report.html", videos=False).read_text()
    assert "Online C51" in page
    assert "Behaviour" in page
    acts = {"it": Act(again.policy())}
    film(acts, "toy:chain", CFG.protocol, out=tmp_path / "clip.mp4", seed=0, max_steps=5)
    assert (tmp_path / "clip.mp4").stat().st_size > 500


class PlugPulled(Exception):  # noqa: N818  (not a fault of anybody's)
    """What no program hears of: nothing is saved."""


def test_without_power_it_goes_on_to_the_same_weights(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unlucky(ReplayAgent):
        def _step(self, stage: Stage) -> None:
            if self.learner.step >= 45:
                raise PlugPulled
            super()._step(stage)

    with monkeypatch.context() as bad:
        bad.setattr("scaledq.run.assemble.ReplayAgent", Unlucky)
        with pytest.raises(PlugPulled):
            train(CFG, tmp_path)
    with pytest.raises(RunError, match="--resume"):
        train(CFG, tmp_path)
    again = train(CFG, tmp_path, resume=True)
    assert logs(again) == logs(run)
    ours, theirs = (load_file(r.folder / "weights.safetensors") for r in (again, run))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    times = {"seconds": 0}
    assert [row | times for row in again.metrics] == [row | times for row in run.metrics]


def test_a_finished_run_is_not_run_again(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run.folder / "weights.safetensors").stat().st_mtime_ns
    assert train(CFG, run.folder.parent).folder == run.folder
    assert (run.folder / "weights.safetensors").stat().st_mtime_ns == before
    assert "already finished" in capsys.readouterr().err


def test_it_can_start_from_another_runs_weights_and_with_another_objective(
    run: Run, tmp_path: Path
) -> None:
    start = Start(run=str(run.folder), parts="all")
    cfg = replace(CFG, tasks=("toy:chain",), objective=ScaledQL(td=SUPPORT), start=start)
    once = replace(cfg, steps=1, optim=replace(cfg.optim, lr=1e-12))
    weights = train(once, tmp_path).network.state_dict()
    theirs = run.network.state_dict()
    np.testing.assert_allclose(
        weights["encoder.layers.1.weight"], theirs["encoder.layers.1.weight"], atol=1e-9
    )
    assert train(cfg, tmp_path).folder.name.startswith("online_c51-toy-chain-seed0-")


def test_without_the_field_a_config_is_named_as_ever() -> None:
    offline = replace(CFG, online=None)
    assert "online" not in departures(offline)
    assert offline.slug == "scaled_ql-2tasks-seed0"
    with pytest.raises(ConfigError, match="learns from logs"):
        online.train_online(offline)


def test_several_processes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RunError, match="without torchrun"):
        train(CFG, tmp_path)


def test_what_contradicts_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="stores: an online run makes its own data"):
        train(replace(CFG, stores=("logs",)), tmp_path)
    with pytest.raises(ConfigError, match="nobody for bc"):
        replace(CFG, objective=BehaviourCloning())
    with pytest.raises(ConfigError, match="a view chooses from logs"):
        replace(CFG, view=View(rows=First()))
    with pytest.raises(ConfigError, match=r"online\.slots"):
        Online(slots=0)
    with pytest.raises(TaskError, match="did you mean"):
        train(replace(CFG, tasks=("Pnog",)), tmp_path)
    small = Online(replay=Replay(ring=RingConfig(capacity=3), warmup=50), slots=1)
    with pytest.raises(ConfigError, match=r"ring\.capacity"):
        train(replace(CFG, online=small), tmp_path)
    assert not list(tmp_path.rglob("*.json"))
