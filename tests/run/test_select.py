"""Choosing among runs from logs alone, where the truth is known."""

from dataclasses import replace
from pathlib import Path

import pytest

from scaledq.core.errors import RunError
from scaledq.core.protocol import Protocol
from scaledq.data.loader import Transitions
from scaledq.data.writer import LogWriter
from scaledq.learn.bc import BehaviourCloning
from scaledq.learn.c51 import C51
from scaledq.learn.fqe import FQEConfig
from scaledq.learn.objective import ScaledQL
from scaledq.learn.optim import OptimConfig
from scaledq.nets.head import NeckConfig
from scaledq.nets.mlp import MLPConfig
from scaledq.play.toy import random_log, task
from scaledq.run.config import RunConfig
from scaledq.run.select import select
from scaledq.run.train import train

QUICK = FQEConfig(steps=300, batch_size=64, replicates=8, lr=3e-3, fraction=0.05)
TOYS = ("chain", "mirror")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    store = tmp_path_factory.mktemp("select") / "store"
    for toy in TOYS:
        rows = random_log(toy, 2_000, seed=0)
        with LogWriter(
            store, task(toy), "log", behaviour="random", protocol=None, source={}, versions={}
        ) as log:
            log.append(rows.frames, rows.action, rows.reward, rows.terminated, rows.truncated)
            log.finish()
    return RunConfig(
        tasks=tuple(task(toy).name for toy in TOYS),
        stores=(str(store),),
        objective=ScaledQL(td=C51(atoms=21, v_min=-0.5, v_max=1.5)),
        encoder=MLPConfig(widths=(64,)),
        neck=NeckConfig(embedding="none", width=64, feature_scale=8.0),
        optim=OptimConfig(lr=3e-3, eps=1e-5, target_every=10),
        transitions=Transitions(stack=1, n_step=1, gamma=0.9),
        batch_size=32,
        steps=250,
        protocol=Protocol(name="toy", epsilon=0.0),
        checkpoint_every=100,
    )


def test_the_run_that_learnt_is_chosen_and_the_interval_says_how_surely(
    run: RunConfig, tmp_path: Path
) -> None:
    learnt = train(run, tmp_path)
    unlearnt = train(replace(run, steps=1, seed=4), tmp_path)
    cloned = train(replace(run, objective=BehaviourCloning()), tmp_path)
    verdicts = select([unlearnt, cloned, learnt], cfg=QUICK)
    assert verdicts[0].folder == learnt.folder
    assert verdicts[0].best == 1.0
    assert verdicts[0].low <= verdicts[0].gain <= verdicts[0].high
    assert verdicts[0].low > max(v.high for v in verdicts[1:])
    for toy in run.tasks:  # the goal is five steps off, and pays 1
        assert verdicts[0].values[toy] == pytest.approx(0.9**4, abs=0.15)
        assert 0 < verdicts[0].behaviour[toy] < 0.4


def test_checkpoints_are_candidates_and_equal_choices_are_reproducible(
    run: RunConfig, tmp_path: Path
) -> None:
    learnt = train(run, tmp_path)
    short = replace(QUICK, steps=20)
    first, second = (select([learnt], every_checkpoint=True, cfg=short) for _ in range(2))
    assert first == second
    assert {v.name for v in first} == {learnt.name, f"{learnt.name}@200"} | {
        v.name for v in first if v.name.endswith("@100")
    }


def test_an_evaluation_that_looks_less_far_than_the_horizon_says_so() -> None:
    assert QUICK.caution(0.9) == QUICK.caution(0.93) == ""
    assert "moves 15 times" in QUICK.caution(0.95)
    assert "horizon of 100" in FQEConfig().caution(0.99)


def test_what_cannot_be_compared_is_refused(run: RunConfig, tmp_path: Path) -> None:
    one = train(replace(run, steps=1), tmp_path)
    other = train(replace(run, steps=1, tasks=run.tasks[:1]), tmp_path)
    with pytest.raises(RunError, match="play different tasks"):
        select([one, other])
    with pytest.raises(RunError, match="at least one run"):
        select([])
