"""Every objective: published formulas in loops, exact optima, and blindness to padded actions."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scaledq.core.batch import Batch
from scaledq.core.config import from_json, to_json
from scaledq.core.errors import ConfigError
from scaledq.learn.bc import BehaviourCloning
from scaledq.learn.bcq import DiscreteBCQ
from scaledq.learn.c51 import C51
from scaledq.learn.hl_gauss import HLGauss, TwoHot
from scaledq.learn.iql import IQL
from scaledq.learn.learner import Learner
from scaledq.learn.objective import ReturnRegression, ScaledQL
from scaledq.learn.optim import OptimConfig
from scaledq.learn.td import MSE, QuantileRegression

TD_ERRORS = (
    C51(atoms=17, v_min=-2.0, v_max=2.0),
    MSE(unitary=False),
    HLGauss(bins=17, v_min=-2.0, v_max=2.0),
    TwoHot(atoms=17, v_min=-2.0, v_max=2.0),
    QuantileRegression(quantiles=5),
)
ids = [td.kind for td in TD_ERRORS]


def randomise(net: Any) -> Any:
    for p in net.parameters():
        torch.nn.init.normal_(p)
    return net.double()


def doubled(batch):
    names = ("reward", "step_reward", "discount")
    return replace(batch, **{name: getattr(batch, name).double() for name in names})


def test_the_default_is_the_papers() -> None:
    ours = ScaledQL()
    assert (ours.td, ours.alpha, ours.dr3) == (C51(atoms=51, v_min=-10.0, v_max=10.0), 0.05, 0.0)


def test_scaled_ql_is_the_papers_eq_1_written_in_loops(world, table) -> None:
    td, batch = C51(atoms=5, v_min=-1.0, v_max=1.0), doubled(world.batch)
    objective = ScaledQL(td=td, alpha=0.3)
    net, target_net = (randomise(table(objective.heads)) for _ in range(2))
    loss, terms = objective(net, target_net, batch)
    z = np.linspace(-1, 1, 5)
    for b in range(len(batch)):
        task, actions = batch.task[b], 2 + int(batch.task[b])
        state, later = (int(x[b, 0, 0]) for x in (batch.obs, batch.next_obs))
        probs = net.tables["q"][task, state, :actions].softmax(-1).detach().numpy()
        ahead = target_net.tables["q"][task, later, :actions].softmax(-1).detach().numpy()
        best = ahead[np.argmax(ahead @ z)]
        backed_up = np.zeros(5)
        for mass, atom in zip(best, z, strict=True):
            value = np.clip(batch.reward[b].item() + batch.discount[b].item() * atom, -1, 1)
            backed_up += mass * np.clip(1 - np.abs(value - z) / 0.5, 0, 1)
        action = int(batch.action[b])
        cross_entropy = -sum(backed_up * np.log(probs[action]))
        q = probs @ z
        conservative = np.log(np.exp(q).sum()) - q[action]
        assert loss[b].item() == pytest.approx(cross_entropy + 0.3 * conservative, rel=1e-9)
        assert terms["cql_gap"][b].item() == pytest.approx(conservative, rel=1e-9)


def test_the_conservative_weight_moves_in_a_straight_line_and_then_stays() -> None:
    moving = ScaledQL(alpha=1.0, alpha_last=0.2, alpha_steps=4)
    assert [moving.at(step).alpha for step in (0, 1, 2, 4, 9)] == pytest.approx(
        [1.0, 0.8, 0.6, 0.2, 0.2]
    )
    assert moving.at(3) == ScaledQL(alpha=moving.at(3).alpha)
    still = ScaledQL(alpha=0.3)
    assert still.at(7) is still
    with pytest.raises(ConfigError, match=r"objective\.alpha_steps"):
        ScaledQL(alpha_steps=-1)


@pytest.mark.parametrize("td", [C51(atoms=5, v_min=-1.0, v_max=1.0), MSE(unitary=False)])
def test_calibrated_ql_is_cal_qls_written_in_loops(world, table, td) -> None:
    """Every third return is unknown: that row loses its TD error alone."""
    plain = doubled(world.batch)
    floor = torch.linspace(-0.8, 0.8, len(plain)).double()
    floor[::3] = torch.nan
    batch = replace(plain, returns=floor)
    objective = ScaledQL(td=td, alpha=0.3, calibrated=True)
    net, target_net = (randomise(table(objective.heads)) for _ in range(2))
    loss, terms = objective(net, target_net, batch)
    alone, _ = replace(objective, alpha=0.0)(net, target_net, batch)
    q = td.q(net.tables["q"]).detach().numpy()
    for b in range(len(batch)):
        task, state = int(batch.task[b]), int(batch.obs[b, 0, 0])
        values = q[task, state, : 2 + task]
        expected = 0.0
        if b % 3:
            floored = [math.exp(max(value, float(floor[b]))) for value in values]
            expected = math.log(sum(floored)) - values[batch.action[b]]
        assert terms["cql_gap"][b].item() == pytest.approx(expected, rel=1e-9)
        assert (loss - alone)[b].item() == pytest.approx(0.3 * expected, rel=1e-9, abs=1e-12)
    with pytest.raises(ConfigError, match=r"objective\.calibrated needs Monte-Carlo returns"):
        objective(net, target_net, plain)


def test_unitary_scaling_scales_the_floor_too(world, table) -> None:
    objective = ScaledQL(td=MSE(), calibrated=True)
    learner = Learner(table(objective.heads), objective, OptimConfig(), tasks=2)
    batch = replace(world.batch, returns=2 * world.batch.reward)
    learner.update(batch)
    assert learner.reward_scale().ne(1).any()
    seen = learner.scaled(batch)
    assert isinstance(seen, Batch)
    assert seen.returns is not None
    torch.testing.assert_close(seen.returns, 2 * seen.reward)


def test_double_lets_the_online_network_choose(world, table) -> None:
    td, batch = MSE(unitary=False), doubled(world.batch)
    objective = ScaledQL(td=td, alpha=0.0, double=True)
    net, target_net = (randomise(table(objective.heads)) for _ in range(2))
    loss, _ = objective(net, target_net, batch)
    for b in range(len(batch)):
        task, actions = batch.task[b], 2 + int(batch.task[b])
        state, later = (int(x[b, 0, 0]) for x in (batch.obs, batch.next_obs))
        choice = int(net.tables["q"][task, later, :actions, 0].argmax())
        value = target_net.tables["q"][task, later, choice, 0]
        error = batch.reward[b] + batch.discount[b] * value
        error = error - net.tables["q"][task, state, batch.action[b], 0]
        assert loss[b].item() == pytest.approx(error.item() ** 2, rel=1e-9)


def test_dr3_adds_the_weighted_product_of_successive_features(world, table) -> None:
    plain, regular = ScaledQL(), ScaledQL(dr3=0.7)
    net = randomise(table(plain.heads))
    batch = doubled(world.batch)
    phi, phi_next = (net.features[x[:, 0, 0].long()] for x in (batch.obs, batch.next_obs))
    extra = regular(net, net, batch)[0] - plain(net, net, batch)[0]
    torch.testing.assert_close(extra, 0.7 * (phi * phi_next).sum(-1))
    (grad,) = torch.autograd.grad(extra.sum(), net.features)
    (expected,) = torch.autograd.grad(0.7 * (phi * phi_next).sum(), net.features)
    torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize("td", [*TD_ERRORS, MSE()], ids=[*ids, "unitary"])
def test_every_td_error_finds_the_optimal_values(world, table, td) -> None:
    objective = ScaledQL(td=td, alpha=0.0, double=td.kind == "mse")
    net = table(objective.heads)
    optim = OptimConfig(lr=0.1, eps=1e-8, target_every=5)
    learner = Learner(net, objective, optim, tasks=2)
    for _ in range(200):
        learner.update(world.batch)
    learner.check()
    q = td.q(net.tables["q"]) * learner.reward_scale()[:, None, None]
    np.testing.assert_allclose(world.learned(q), world.optimal, atol=0.03)


def test_known_returns_are_fitted_as_they_stand_and_need_no_target_network(world, table) -> None:
    for td in TD_ERRORS:
        objective = ReturnRegression(td=td)
        net = table(objective.heads)
        learner = Learner(net, objective, OptimConfig(lr=0.1, eps=1e-8), tasks=2)
        for _ in range(100):
            learner.update(world.batch)
        at = (world.batch.task, world.batch.obs[:, 0, 0].long(), world.batch.action)
        q = td.q(net.tables["q"])[at]
        torch.testing.assert_close(q, world.batch.reward, atol=0.03, rtol=0)
        assert learner.target_net is None


def test_behaviour_cloning_stays_at_the_behaviour(world, table) -> None:
    """Its softmax becomes the share of each action in the data, whatever the rewards."""
    keep = torch.tensor([i for i in range(15) for _ in range(1 + i % 3)])
    names = ("frames", "task", "action", "reward", "step_reward", "discount", "steps")
    batch = replace(world.batch, **{name: getattr(world.batch, name)[keep] for name in names})
    objective = BehaviourCloning()
    net = table(objective.heads)
    learner = Learner(net, objective, OptimConfig(lr=0.1, eps=1e-8), tasks=2)
    for _ in range(300):
        learner.update(batch)
    probs = objective.preferences(net(batch.obs, batch.task)).softmax(-1)
    for row in range(len(batch)):
        same = (batch.task == batch.task[row]) & (batch.obs == batch.obs[row])[:, 0, 0]
        share = (batch.action[same] == batch.action[row]).double().mean()
        assert probs[row, batch.action[row]].item() == pytest.approx(share.item(), abs=0.01)
    assert learner.target_net is None


OBJECTIVES = (
    *(ScaledQL(td=td, double=True, dr3=0.1) for td in TD_ERRORS),
    BehaviourCloning(),
    *(DiscreteBCQ(td=td) for td in TD_ERRORS[:2]),
    *(IQL(td=td) for td in TD_ERRORS[:2]),
    ReturnRegression(td=TD_ERRORS[0]),
)
names = [o.kind if o.td is None else f"{o.kind}-{o.td.kind}" for o in OBJECTIVES]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=names)
@settings(max_examples=15)
@given(padding=st.integers(1, 15), filler=st.floats(-1e3, 1e3))
def test_masked_slots_change_neither_loss_nor_gradient(
    world, table, objective, padding: int, filler: float
) -> None:
    batch = doubled(world.batch)
    plain = randomise(table(objective.heads))
    padded = table(objective.heads, slots=3 + padding).double()
    with torch.no_grad():
        padded.features.copy_(plain.features)
        for name, mine in padded.tables.items():
            mine.fill_(filler)
            if mine.shape == plain.tables[name].shape:
                mine.copy_(plain.tables[name])
            else:
                mine[0, :, :2] = plain.tables[name][0, :, :2]
                mine[1, :, :3] = plain.tables[name][1]
    losses = [objective(net, net, batch)[0] for net in (plain, padded)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-12, atol=1e-12)
    for loss in losses:
        loss.sum().backward()
    for name, mine in padded.tables.items():
        grad, expected = mine.grad, plain.tables[name].grad
        if mine.shape == plain.tables[name].shape:
            torch.testing.assert_close(grad, expected)
            continue
        torch.testing.assert_close(grad[:, :, :3], expected, rtol=1e-12, atol=1e-12)
        assert not grad[0, :, 2:].any()
        assert not grad[1, :, 3:].any()
    assert objective.preferences(padded(batch.obs, batch.task))[0, 2:].isneginf().all()


@pytest.mark.parametrize("objective", OBJECTIVES, ids=names)
def test_losses_have_exact_gradients(world, table, objective) -> None:
    net, target_net = (randomise(table(objective.heads)) for _ in range(2))
    keys = [name for name, _ in net.named_parameters()]
    batch = doubled(world.batch)
    if isinstance(objective, IQL):  # its target and its weights follow V, as constants
        objective = replace(objective, beta=0.0)
        batch = replace(batch, discount=torch.zeros_like(batch.discount))

    def loss(*values: torch.Tensor) -> torch.Tensor:
        def called(obs: torch.Tensor, task: torch.Tensor) -> dict[str, torch.Tensor]:
            parameters = dict(zip(keys, values, strict=True))
            return torch.func.functional_call(net, parameters, (obs, task))

        return objective(called, target_net, batch)[0]

    assert torch.autograd.gradcheck(loss, tuple(net.parameters()), fast_mode=True)


def test_configs_survive_json() -> None:
    for objective in OBJECTIVES:
        assert from_json(type(objective), to_json(objective)) == objective


@pytest.mark.parametrize("field", ["alpha", "dr3"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_negative_weights_are_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"objective.{field}"):
        replace(ScaledQL(), **{field: value})


def test_an_unknown_field_is_refused_with_its_path() -> None:
    with pytest.raises(ConfigError, match=r"unknown field 'td.c51.atom'.*did you mean atoms"):
        from_json(ScaledQL, '{"td": {"kind": "c51", "atom": 3}}')
