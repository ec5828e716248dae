import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scaledq.core.errors import ConfigError
from scaledq.learn.bcq import DiscreteBCQ, likely
from scaledq.learn.c51 import C51
from scaledq.learn.learner import Learner
from scaledq.learn.optim import OptimConfig
from scaledq.learn.td import MSE

ROWS = ("frames", "task", "action", "reward", "step_reward", "discount", "steps")


def test_the_published_algorithm_in_loops(world, table) -> None:
    """Fujimoto et al. (2019), algorithm 1, with the Huber loss and the penalty of their code."""
    objective = DiscreteBCQ(td=MSE(unitary=False, huber=1.0))
    net, target_net = table(objective.heads), table(objective.heads)
    for p in (*net.parameters(), *target_net.parameters()):
        torch.nn.init.normal_(p, std=1.5)
    batch = world.batch
    loss, _ = objective(net, target_net, batch)
    for b in range(len(batch)):
        task, actions = int(batch.task[b]), 2 + int(batch.task[b])
        state, later = (int(x[b, 0, 0]) for x in (batch.obs, batch.next_obs))
        q = net.tables["q"][task, :, :actions, 0].tolist()
        clone = net.tables["behaviour"][task, :, :actions, 0].softmax(-1).tolist()
        allowed = [a for a in range(actions) if clone[later][a] / max(clone[later]) > 0.3]
        best = max(allowed, key=lambda a: q[later][a])
        target = batch.reward[b] + batch.discount[b] * target_net.tables["q"][task, later, best, 0]
        error = abs(target.item() - q[state][int(batch.action[b])])
        huber = error**2 / 2 if error < 1 else error - 0.5
        logits = net.tables["behaviour"][task, state, :actions, 0].tolist()
        expected = huber - math.log(clone[state][int(batch.action[b])])
        expected += 0.01 * sum(x * x for x in logits) / actions
        assert loss[b].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("td", [MSE(), C51(atoms=17, v_min=-2.0, v_max=2.0)], ids=["mse", "c51"])
def test_values_are_optimal_among_actions_that_are_likely_enough(world, table, td) -> None:
    """Every action logged 8 times but the best of each state, once: below 0.3 of the maximum."""
    td = replace(td, unitary=False) if isinstance(td, MSE) else td
    best = np.nanargmax(np.where(np.isnan(world.optimal), -np.inf, world.optimal), -1)
    batch, rows = world.batch, []
    for i in range(len(batch)):
        rare = best[batch.task[i], batch.obs[i, 0, 0]] == batch.action[i]
        rows += [i] * (1 if rare else 8)
    logged = replace(batch, **{name: getattr(batch, name)[rows] for name in ROWS})

    q = np.zeros((2, 3, 3))
    for _ in range(60):
        old = q.copy()
        for i in range(len(batch)):
            task, state, action = int(batch.task[i]), int(batch.obs[i, 0, 0]), int(batch.action[i])
            later = int(batch.next_obs[i, 0, 0])
            common = [a for a in range(2 + task) if a != best[task, later]]
            ahead = max(old[task, later, a] for a in common)
            q[task, state, action] = batch.reward[i] + batch.discount[i] * ahead

    objective = DiscreteBCQ(td=td, penalty=0.0)
    net = table(objective.heads)
    optim = OptimConfig(lr=0.1, eps=1e-8, target_every=5)
    learner = Learner(net, objective, optim, tasks=2)
    for _ in range(200):
        learner.update(logged)
    learned = world.learned(td.q(net.tables["q"]))
    known = ~np.isnan(learned)
    np.testing.assert_allclose(learned[known], q[known], atol=0.03)
    policy = objective.preferences(net(batch.obs, batch.task)).argmax(-1)
    assert all(policy[i] != best[batch.task[i], batch.obs[i, 0, 0]] for i in range(len(batch)))


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=18), st.floats(0, 1))
def test_some_action_is_always_likely_enough(logits: list[float], threshold: float) -> None:
    row = torch.tensor([[*logits, 99.0]], dtype=torch.float64)
    available = torch.tensor([[True] * len(logits) + [False]])
    allowed = likely(row, available, threshold=threshold)[0]
    assert allowed[max(range(len(logits)), key=logits.__getitem__)]
    assert not allowed[-1]


def test_threshold_0_allows_everything_and_1_only_the_most_likely() -> None:
    logits, available = torch.tensor([[0.0, -500.0, 1.0]]), torch.ones(1, 3, dtype=torch.bool)
    assert likely(logits, available, threshold=0.0).tolist() == [[True, True, True]]
    assert likely(logits, available, threshold=1.0).tolist() == [[False, False, True]]


@pytest.mark.parametrize(("field", "value"), [("threshold", 1.01), ("threshold", -0.1)])
def test_a_threshold_outside_0_to_1_is_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"objective.{field}"):
        DiscreteBCQ(threshold=value)
    with pytest.raises(ConfigError, match=r"objective.penalty"):
        DiscreteBCQ(penalty=-1.0)
