"""Learning, from end to end, where the answer is known: log, store, loader, train, play.

The log holds random play in pieces too short to lead from the start to the goal, so whoever gets
there has put them together. Chain and mirror look alike and want other actions: one network, two
heads.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scaledq.core.protocol import Protocol
from scaledq.data.loader import Transitions
from scaledq.data.writer import LogWriter
from scaledq.learn.bc import BehaviourCloning
from scaledq.learn.bcq import DiscreteBCQ
from scaledq.learn.c51 import C51
from scaledq.learn.hl_gauss import HLGauss, TwoHot
from scaledq.learn.iql import IQL
from scaledq.learn.objective import Objective, ScaledQL
from scaledq.learn.optim import OptimConfig
from scaledq.learn.td import MSE, QuantileRegression
from scaledq.nets.head import NeckConfig
from scaledq.nets.mlp import MLPConfig
from scaledq.play.policy import NetPolicy, Selection
from scaledq.play.toy import (
    CHAIN,
    MIRROR,
    Toy,
    expected_score,
    optimal_values,
    pictures,
    random_log,
    task,
)
from scaledq.run.config import RunConfig
from scaledq.run.evaluate import evaluate
from scaledq.run.train import train

TOYS = (CHAIN, MIRROR)
PIECE = 4
SUPPORT = C51(atoms=21, v_min=-0.5, v_max=1.5)
OBJECTIVES = {
    "c51": ScaledQL(td=SUPPORT),
    "hl_gauss": ScaledQL(td=HLGauss(bins=21, v_min=-0.5, v_max=1.5)),
    "two_hot": ScaledQL(td=TwoHot(atoms=21, v_min=-0.5, v_max=1.5)),
    "quantile": ScaledQL(td=QuantileRegression(quantiles=8)),
    "mse": ScaledQL(td=MSE()),
    "double dr3": ScaledQL(td=SUPPORT, double=True, dr3=0.003),
    "bcq": DiscreteBCQ(td=SUPPORT),
    "iql": IQL(expectile=0.9),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run on the two toys, with its store."""
    store = tmp_path_factory.mktemp("toy") / "store"
    for toy in TOYS:
        rows = random_log(toy.name, 2_000, seed=0, piece=PIECE)
        with LogWriter(
            store, task(toy.name), "log", behaviour="random", protocol=None, source={}, versions={}
        ) as log:
            log.append(rows.frames, rows.action, rows.reward, rows.terminated, rows.truncated)
            log.finish()
    return RunConfig(
        tasks=tuple(task(toy.name).name for toy in TOYS),
        stores=(str(store),),
        encoder=MLPConfig(widths=(64,)),
        neck=NeckConfig(embedding="none", width=64, feature_scale=8.0),
        optim=OptimConfig(lr=3e-3, eps=1e-5, target_every=10),
        transitions=Transitions(stack=1, n_step=1, gamma=0.9),
        batch_size=32,
        steps=250,
        protocol=Protocol(name="toy", epsilon=0.0),
        checkpoint_every=250,
    )


def scores(run: RunConfig, out: Path, *, selection: Selection, episodes: int) -> dict[str, float]:
    """Mean score of each task, as played."""
    rows = evaluate(train(run, out), episodes=episodes, selection=selection)
    return {
        name: float(np.mean([row.score for row in rows if row.task == name])) for name in run.tasks
    }


def values(policy: NetPolicy, toy: Toy) -> np.ndarray:
    """What the policy thinks of every action in every cell [C A]."""
    seen = pictures(toy, 8)[:, None]
    head = np.full(len(seen), TOYS.index(toy))
    return policy.values(seen, head)[:, : len(toy.moves)]


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_values_lead_to_the_goal(run: RunConfig, tmp_path: Path, objective: Objective) -> None:
    played = scores(replace(run, objective=objective), tmp_path, selection="greedy", episodes=2)
    assert played == dict.fromkeys(run.tasks, 1.0)


@pytest.mark.parametrize("td", [SUPPORT, MSE(unitary=False)], ids=lambda td: td.kind)
def test_without_pessimism_the_optimal_values_are_found(
    run: RunConfig, tmp_path: Path, td: C51 | MSE
) -> None:
    cfg = replace(run, objective=ScaledQL(td=td, alpha=0.0), steps=400)
    policy = train(cfg, tmp_path).policy()
    assert isinstance(policy, NetPolicy)
    for toy in TOYS:
        floor = [cell for cell, kind in enumerate("".join(toy.map)) if kind in ".S"]
        optimal = optimal_values(toy)[floor]
        np.testing.assert_allclose(values(policy, toy)[floor], optimal, atol=0.05)


def test_cloning_stays_near_the_behaviour(run: RunConfig, tmp_path: Path) -> None:
    clone = replace(run, objective=BehaviourCloning())
    played = scores(clone, tmp_path, selection="sampled", episodes=200)
    for toy, score in zip(TOYS, played.values(), strict=True):
        actions = len(toy.moves)
        chance = expected_score(toy, np.full((len(toy.map[0]), actions), 1 / actions))
        assert score == pytest.approx(chance, abs=0.1)
