"""Fine-tuning: which run it is, that old tasks can stay, and what is refused. On the toys."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from scaledq.core.atari import games
from scaledq.core.errors import ConfigError, DataError, RunError, ScaledQError, TaskError
from scaledq.core.protocol import Protocol
from scaledq.data.loader import Transitions
from scaledq.data.store import open_store
from scaledq.data.view import Uniform
from scaledq.data.writer import LogWriter
from scaledq.learn.cpc import CPC
from scaledq.learn.objective import ScaledQL
from scaledq.learn.optim import OptimConfig
from scaledq.nets.head import NeckConfig
from scaledq.nets.mlp import MLPConfig
from scaledq.play.toy import random_log, task
from scaledq.run import assemble
from scaledq.run.config import RunConfig, Start
from scaledq.run.evaluate import evaluate, normalised
from scaledq.run.finetune import (
    FineTuning,
    best_in_data,
    finetune,
    finetuned,
    reference,
)
from scaledq.run.folder import WEIGHTS, Run
from scaledq.run.forgetting import FORGETTING, forgetting
from scaledq.run.replay import ReplayAgent
from scaledq.run.stage import Stage
from scaledq.run.start import identified
from scaledq.run.train import train

CHAIN, MIRROR = task("chain").name, task("mirror").name


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Random play of two toys."""
    store = tmp_path_factory.mktemp("toys") / "store"
    for kind in ("chain", "mirror"):
        rows, name = random_log(kind, 1_000, seed=0), kind
        with LogWriter(
            store, task(name), "log", behaviour="random", protocol=None, source={}, versions={}
        ) as log:
            log.append(rows.frames, rows.action, rows.reward, rows.terminated, rows.truncated)
            log.finish()
    return str(store)


@pytest.fixture(scope="module")
def source(store: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that has learnt the chain."""
    cfg = RunConfig(
        tasks=(CHAIN,),
        stores=(store,),
        encoder=MLPConfig(widths=(64,)),
        neck=NeckConfig(embedding="none", width=64, feature_scale=8.0),
        optim=OptimConfig(lr=3e-3, eps=1e-5, target_every=10),
        transitions=Transitions(stack=1, n_step=1, gamma=0.9),
        batch_size=32,
        steps=200,
        protocol=Protocol(name="toy", epsilon=0.0),
        checkpoint_every=200,
    )
    return train(cfg, tmp_path_factory.mktemp("source"))


def how(store: str, **fields: object) -> FineTuning:
    return FineTuning(task=MIRROR, stores=(store,), **fields)  # pyright: ignore[reportArgumentType]


def test_a_new_task_gets_the_encoder_and_all_else_as_it_was(source: Run, store: str) -> None:
    cfg = finetuned(source, how(store, fraction=0.1, frozen=True, seed=3))
    start = Start(run=str(source.folder), frozen=True)
    expected = replace(source.config, tasks=(MIRROR,), seed=3, start=start)
    assert replace(cfg, view=expected.view) == expected
    assert cfg.view.rows == Uniform(fraction=0.1)
    assert 70 < assemble.loader(cfg).sizes[0] < 130, "of 1,000, drawn one by one"


def test_from_scratch_is_the_same_run_but_for_its_start(source: Run, store: str) -> None:
    tuned = finetuned(source, how(store, fraction=0.1))
    scratch = finetuned(source, how(store, fraction=0.1, from_scratch=True))
    assert scratch == replace(tuned, start=Start())
    assert identified(scratch).folder != identified(tuned).folder


def test_a_recipe_gives_objective_and_neck_and_the_source_its_encoder(
    source: Run, store: str
) -> None:
    base = replace(source.config, objective=CPC(), encoder=MLPConfig(widths=(8,)), steps=10**6)
    base = replace(base, transitions=Transitions(stack=4))
    cfg = finetuned(source, how(store), base=base)
    assert cfg.objective == base.objective
    assert cfg.encoder == source.config.encoder
    assert cfg.transitions.stack == source.config.transitions.stack
    assert cfg.steps == 100_000


def test_a_kept_task_under_a_frozen_body_is_not_forgotten(
    source: Run, store: str, tmp_path: Path
) -> None:
    cfg = replace(finetuned(source, how(store, keep=("all",), frozen=True)), steps=40)
    run = finetune(cfg, tmp_path)
    (change,) = forgetting(source, run, episodes=2)
    assert (change.task, change.before, change.lost) == (CHAIN, 1.0, 0.0)
    said = json.loads((run.folder / FORGETTING).read_text())
    assert said["tasks"][0]["after"] == change.after == change.before
    assert {row.task for row in evaluate(run, episodes=1)} == {CHAIN, MIRROR}


def test_replay_learns_both_in_the_shares_that_were_asked_for(
    source: Run, store: str, tmp_path: Path
) -> None:
    cfg = finetuned(source, how(store, replay=("all",), replay_share=0.25))
    assert cfg.tasks == (MIRROR, CHAIN)
    batches = [assemble.loader(cfg).batch(step) for step in range(40)]
    share = np.mean([(batch.task == 1).float().mean().item() for batch in batches])
    assert share == pytest.approx(0.25, abs=0.05)
    run = finetune(cfg, tmp_path)
    assert [change.lost for change in forgetting(source, run, episodes=2)] == [0.0]
    assert all(row.score == 1 for row in evaluate(run, episodes=2))


def test_fine_tuning_goes_on_after_a_stop(source: Run, store: str, tmp_path: Path) -> None:
    cfg = replace(finetuned(source, how(store)), steps=20, checkpoint_every=10)
    whole = finetune(cfg, tmp_path / "a")
    folder = finetune(cfg, tmp_path / "b").folder
    (folder / WEIGHTS).unlink()
    newest = folder / "checkpoints" / "step-000000020"
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()
    again = finetune(cfg, tmp_path / "b", resume=True)
    ours, theirs = (load_file(run.folder / WEIGHTS) for run in (again, whole))
    assert all(ours[name].equal(theirs[name]) for name in theirs)
    assert again.facts["reference"] == whole.facts["reference"]


def test_the_best_score_in_the_data_is_that_of_the_best_fiftieth(tmp_path: Path) -> None:
    """100 episodes of 4 rows, two in each 50th; the return of number 30 is 8, others have 1."""
    toy, rows = task("chain"), 400
    reward = np.zeros(rows, np.float32)
    reward[3::4] = 1
    reward[30 * 4 + 3] = 8
    ends = np.arange(1, rows + 1) % 4 == 0
    with LogWriter(
        tmp_path, toy, "log", behaviour="random", protocol=None, source={}, versions={}
    ) as log:
        frames = np.zeros((rows, *toy.frame_shape), toy.frame_dtype)
        log.append(frames, np.zeros(rows, np.int16), reward, ends, np.zeros(rows, bool))
        log.finish()
    store = open_store(str(tmp_path))
    assert best_in_data(store[CHAIN]) == (8 + 1) / 2
    assert best_in_data([]) is None
    assert reference([store], CHAIN) == {"data_best": 4.5}


def played(source: Run, **fields: object) -> RunConfig:
    """Online fine-tuning to the mirror: 600 steps of play, 60 of which only fill the ring."""
    asked = FineTuning(task=MIRROR, frames=600, **fields)  # pyright: ignore[reportArgumentType]
    return replace(finetuned(source, asked), checkpoint_every=50)


def test_online_a_budget_of_frames_becomes_play_and_updates(source: Run, tmp_path: Path) -> None:
    cfg = played(source, frozen=True)
    assert cfg.online is not None
    assert cfg.online.protocol == source.config.protocol
    assert (cfg.online.replay.warmup, cfg.steps) == (60, (600 - 60) // 4)
    run = finetune(cfg, tmp_path)
    log = open_store(run.folder / "store")[MIRROR]
    assert sum(part.manifest.counts.transitions for part in log) == 600
    ours, theirs = (load_file(r.folder / WEIGHTS) for r in (run, source))
    for name, value in ours.items():
        assert value.equal(theirs[name]) == name.startswith("encoder."), name


def test_online_a_stop_in_the_middle_changes_nothing(
    source: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With kept tasks, an encoder that thaws and a weight that moves."""
    cfg = played(source, keep=("all",))
    thawed = replace(cfg, start=replace(cfg.start, frozen=True, thaw=70))
    assert isinstance(cfg.objective, ScaledQL)
    moving = replace(cfg.objective, alpha=0.5, alpha_steps=100)
    cfg = replace(thawed, objective=moving)
    whole = finetune(cfg, tmp_path / "a")

    class PlugPulled(BaseException):
        """Power is gone."""

    class Unlucky(ReplayAgent):
        def _step(self, stage: Stage) -> None:
            if self.learner.step >= 90:
                raise PlugPulled
            super()._step(stage)

    with monkeypatch.context() as bad:
        bad.setattr("scaledq.run.assemble.ReplayAgent", Unlucky)
        with pytest.raises(PlugPulled):
            finetune(cfg, tmp_path / "b")
    again = finetune(cfg, tmp_path / "b", resume=True)
    ours, theirs = (load_file(run.folder / WEIGHTS) for run in (again, whole))
    assert all(ours[name].equal(theirs[name]) for name in theirs)
    digests = [
        [log.digest for log in open_store(r.folder / "store")[MIRROR]] for r in (again, whole)
    ]
    assert digests[0] == digests[1]
    assert {row.task for row in evaluate(again, episodes=1)} == {CHAIN, MIRROR}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"task": "Freeway:m9d0", "frames": 40_000, "stores": ()}, "has no variant m9d0"),
        ({"frames": -4, "stores": ()}, "--frames must be above 0"),
        ({"frames": 2_400, "head": "toy:pole"}, "--head: .* has no 'toy:pole'"),
        ({"frames": 2_400, "head": CHAIN, "from_scratch": True}, "takes nothing over"),
        ({"frames": 2_400, "replay_share": 0.01}, "is 0 rows; at least one"),
        ({"frames": 2_400, "stores": ("nowhere",)}, "no store at nowhere"),
        ({"frames": 2_400, "task": "toy:maze"}, "toy:maze"),
        ({"frames": 4, "stores": ()}, "too few for one update"),
        ({"frames": 4_000, "stores": (), "fraction": 0.5}, "--fraction and --replay"),
        ({"task": CHAIN}, "is in .* already"),
        ({"task": "toy:chian"}, "did you mean"),
        ({"fraction": 0.0}, "--fraction must lie"),
        ({"fraction": 0.005}, "fewer than one batch of 32"),
        ({"keep": ("pong",)}, "--keep: .* has no 'pong'"),
        ({"replay": ("pong",)}, "--replay: .* has no 'pong'"),
        ({"replay_share": 1.0}, "--replay-share"),
        ({"from_scratch": True, "frozen": True}, "--from-scratch takes nothing over"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(
    source: Run, store: str, tmp_path: Path, fields: dict[str, object], says: str
) -> None:
    asked = {"task": MIRROR, "stores": (store,)} | fields

    def tune() -> None:
        cfg = FineTuning(**asked)  # pyright: ignore[reportArgumentType]
        finetune(finetuned(source, cfg), tmp_path)

    with pytest.raises((ConfigError, DataError, TaskError), match=says):
        tune()
    assert not list(tmp_path.iterdir())


def test_an_encoder_alone_needs_a_recipe_and_forgetting_something_in_common(
    source: Run, store: str, tmp_path: Path
) -> None:
    pretrained = train(replace(source.config, objective=CPC(width=8), steps=4), tmp_path)
    with pytest.raises(ScaledQError, match="--recipe scaled_ql"):
        finetuned(pretrained, how(store))
    base = replace(source.config, steps=4)
    run = finetune(finetuned(pretrained, how(store), base=base), tmp_path)
    with pytest.raises(RunError, match="--keep or --replay"):
        forgetting(source, run, episodes=1)


def test_scores_are_normalised_by_human_dqn_and_the_best_in_the_data() -> None:
    """Freeway: random play 0, a human 29.6; halfway to each is one half."""
    game = games()["Freeway"]
    assert game.dqn_best is not None
    for top, name in ((game.human, "human"), (game.dqn_best, "DQN"), (20.0, "best in its data")):
        halfway = game.random + (top - game.random) / 2
        assert normalised("Freeway", halfway, {"data_best": 20.0})[name] == pytest.approx(0.5)
    assert set(normalised("Freeway", 1.0, {})) == {"human", "DQN"}
    assert normalised("Freeway:m1d0", 1.0, {"data_best": 2.0}) == {}
