"""IQL against the fixed point of its own backup, computed without gradients."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from scaledq.core.config import from_json
from scaledq.core.errors import ConfigError
from scaledq.learn.c51 import C51
from scaledq.learn.hl_gauss import HLGauss
from scaledq.learn.iql import IQL
from scaledq.learn.learner import Learner
from scaledq.learn.optim import OptimConfig
from scaledq.learn.td import MSE


def expectile_of(values: list[float], tau: float) -> float:
    """The v with tau * sum (x - v)+ = (1 - tau) * sum (v - x)+, by bisection."""
    low, high = min(values), max(values)
    for _ in range(60):
        v = (low + high) / 2
        up = tau * sum(max(x - v, 0) for x in values)
        down = (1 - tau) * sum(max(v - x, 0) for x in values)
        low, high = (v, high) if up > down else (low, v)
    return (low + high) / 2


def fixed_point(batch: Any, tau: float) -> tuple[np.ndarray, np.ndarray]:
    q, v = np.zeros((2, 3, 3)), np.zeros((2, 3))
    for _ in range(60):
        for i in range(len(batch)):
            task, state, later = batch.task[i], batch.obs[i, 0, 0], batch.next_obs[i, 0, 0]
            q[task, state, batch.action[i]] = batch.reward[i] + batch.discount[i] * v[task, later]
        for task in (0, 1):
            v[task] = [expectile_of(list(q[task, state, : 2 + task]), tau) for state in range(3)]
    return q, v


def train(world, table, objective: IQL) -> Any:
    net = table(objective.heads)
    learner = Learner(net, objective, OptimConfig(eps=1e-8, target_every=3), tasks=2)
    for step in range(300):
        learner.optim = replace(learner.optim, lr=0.1 * (1 - step / 300))
        learner.update(world.batch)
    learner.check()
    return net


@pytest.mark.parametrize(
    "td",
    [MSE(unitary=False), C51(atoms=17, v_min=-2.0, v_max=2.0), HLGauss(v_min=-2.0, v_max=2.0)],
    ids=["mse", "c51", "hl_gauss"],
)
def test_values_reach_the_expectile_fixed_point(world, table, td) -> None:
    objective = IQL(td=td, expectile=0.8, beta=2.0)
    net = train(world, table, objective)
    q, v = fixed_point(world.batch, 0.8)
    known = ~np.isnan(world.optimal)
    np.testing.assert_allclose(world.learned(td.q(net.tables["q"]))[known], q[known], atol=0.03)
    np.testing.assert_allclose(net.tables["value"][..., 0].detach(), v, atol=0.03)
    preferences = objective.preferences(net(world.batch.obs, world.batch.task))
    for i, probs in enumerate(preferences.softmax(-1)):
        task, state, action = (
            int(x) for x in (world.batch.task[i], world.batch.obs[i, 0, 0], world.batch.action[i])
        )
        weights = [math.exp(2.0 * (q[task, state, a] - v[task, state])) for a in range(2 + task)]
        assert probs[action].item() == pytest.approx(weights[action] / sum(weights), abs=0.03)


def test_an_expectile_near_1_comes_near_the_optimal_values(world) -> None:
    q, _ = fixed_point(world.batch, 0.9999)
    known = ~np.isnan(world.optimal)
    np.testing.assert_allclose(q[known], world.optimal[known], atol=1e-3)


def test_one_step_is_the_published_losses_in_loops(world, table) -> None:
    objective = IQL(td=MSE(unitary=False), expectile=0.7, beta=3.0, max_weight=5.0)
    net, target_net = table(objective.heads), table(objective.heads)
    for p in (*net.parameters(), *target_net.parameters()):
        torch.nn.init.normal_(p)
    batch = world.batch
    loss, terms = objective(net, target_net, batch)
    for b in range(len(batch)):
        task, actions, action = int(batch.task[b]), 2 + int(batch.task[b]), int(batch.action[b])
        state, later = (int(x[b, 0, 0]) for x in (batch.obs, batch.next_obs))
        value = net.tables["value"][task, :, 0].tolist()
        target = batch.reward[b].item() + batch.discount[b].item() * value[later]
        critic = (net.tables["q"][task, state, action, 0].item() - target) ** 2
        advantage = target_net.tables["q"][task, state, action, 0].item() - value[state]
        expectile = (0.7 if advantage > 0 else 0.3) * advantage**2
        policy = net.tables["policy"][task, state, :actions, 0].softmax(-1)[action].item()
        actor = -min(math.exp(3 * advantage), 5.0) * math.log(policy)
        assert loss[b].item() == pytest.approx(critic + expectile + actor, rel=1e-4)
        assert terms["advantage"][b].item() == pytest.approx(advantage, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("expectile", 0.5),
        ("expectile", 1.0),
        ("expectile", 0.2),
        ("beta", -1.0),
        ("max_weight", 0.0),
    ],
)
def test_impossible_settings_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"objective.{field}"):
        replace(IQL(), **{field: value})


def test_iql_has_no_alpha() -> None:
    with pytest.raises(ConfigError, match="unknown field 'alpha' in IQL"):
        from_json(IQL, '{"alpha": 0.1}')
