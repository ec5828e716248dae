"""Health numbers against hand-made networks whose answer is known."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from scaledq.core.errors import ConfigError
from scaledq.core.outputs import Outputs
from scaledq.learn.bc import BehaviourCloning
from scaledq.learn.c51 import C51
from scaledq.learn.health import (
    HEALTHY,
    advise,
    backed_up,
    conflict,
    effective_rank,
    measure,
    of_features,
    reach,
)
from scaledq.learn.hl_gauss import HLGauss
from scaledq.learn.iql import IQL
from scaledq.learn.learner import Learner
from scaledq.learn.objective import ReturnRegression, ScaledQL
from scaledq.learn.optim import OptimConfig
from scaledq.learn.td import MSE


def learner_of(table, objective) -> Learner:
    return Learner(table(objective.heads), objective, OptimConfig(), tasks=2)


def test_effective_rank_counts_directions_that_carry_99_percent() -> None:
    basis = torch.linalg.qr(torch.randn(20, 20)).Q
    scales = torch.tensor([10.0] * 5 + [0.01] * 15)  # 50 of 50.15: five directions are enough
    assert effective_rank(basis * scales @ basis.T) == 5
    assert effective_rank(torch.eye(7)) == 7
    assert effective_rank(torch.outer(torch.randn(9), torch.randn(4))) == 1


def test_features_are_described_by_norm_product_and_dead_units() -> None:
    features = torch.tensor([[3.0, 4.0, 0.0], [0.0, 5.0, 0.0]])
    values = of_features(features, torch.tensor([[1.0, 1.0, 9.0], [2.0, 0.0, 9.0]]))
    assert values["feature_norm"] == 5
    assert values["coadaptation"] == 3.5
    assert values["dead_units"].item() == pytest.approx(1 / 3)


@pytest.mark.parametrize("td", [C51(), MSE(unitary=False), HLGauss()], ids=lambda td: td.kind)
def test_values_are_compared_with_known_returns_in_their_deviations(world, table, td) -> None:
    learner = learner_of(table, ScaledQL(td=td))
    returns = torch.full((15,), float("nan"))
    returns[:4] = torch.tensor([0.0, 2.0, 0.0, 2.0])  # deviation 1, mean 1; every Q is 0
    values = measure(learner, world.batch, returns=returns)
    assert values["overestimation"] == pytest.approx(-1, abs=1e-5)
    assert values["return_data"] == pytest.approx(1)
    assert values["q_data"] == pytest.approx(0, abs=1e-5)
    gaps = torch.tensor([2.0] * 6 + [3.0] * 9).log().mean().item()
    assert values["cql_gap"] == pytest.approx(gaps, abs=1e-5)
    for nothing in (None, torch.full((15,), float("nan"))):
        assert "overestimation" not in measure(learner, world.batch, returns=nothing)


def test_unitary_scaling_is_undone(world, table) -> None:
    learner = learner_of(table, ScaledQL(td=MSE()))
    learner.update(world.batch)
    nn.init.constant_(learner.net.get_parameter("tables.q"), 2.0)
    expected = 2 * learner.reward_scale()[world.batch.task].mean().item()
    assert measure(learner, world.batch)["q_data"] == pytest.approx(expected)


def test_agreement_is_the_share_of_logged_actions_that_are_greedy(world, table) -> None:
    learner = learner_of(table, BehaviourCloning())
    with torch.no_grad():
        learner.net.get_parameter("tables.policy")[:, :, 1] = 1
    values = measure(learner, world.batch)
    assert values["agreement"] == pytest.approx(6 / 15)  # action 1 once in each of 6 states
    assert {"q_data", "clipped"}.isdisjoint(values)


def test_a_support_that_clips_is_reported_with_one_that_fits(world, table) -> None:
    td = C51(atoms=5, v_min=-0.25, v_max=0.25)
    learner = learner_of(table, ScaledQL(td=td))
    batch, mass = world.batch, 0.0
    for b in range(len(batch)):  # untrained: the next distribution is uniform on 5 atoms
        for z in (-0.25, -0.125, 0.0, 0.125, 0.25):
            place = batch.reward[b].item() + batch.discount[b].item() * z
            mass += (abs(place) > 0.25) / 5 / 15
    values = measure(learner, batch, returns=torch.linspace(-2, 0.5, 15))
    assert values["clipped"] == pytest.approx(mass)
    assert values["end_mass"] == pytest.approx(2 / 5)
    assert values["support_low"] == pytest.approx(-2)  # a known return
    assert values["support_high"] == pytest.approx(1.125)  # reward 1, then the highest atom
    lines = advise(values)
    assert any("clipped" in line and "[-2, 1.12] would fit" in line for line in lines)
    fitting = learner_of(table, ScaledQL(td=C51(v_min=-3.0, v_max=3.0)))
    with torch.no_grad():
        fitting.net.get_parameter("tables.q")[..., 25] = 9.0
        assert fitting.target_net is not None
        fitting.target_net.load_state_dict(fitting.net.state_dict())
    assert not [line for line in advise(measure(fitting, batch)) if "support" in line]


def test_a_scalar_target_is_one_place_of_mass(world, table) -> None:
    td = HLGauss(v_min=-0.5, v_max=0.5)
    places, mass = backed_up(td, torch.zeros(15, td.size), world.batch)
    torch.testing.assert_close(places[:, 0], world.batch.reward)
    assert mass.tolist() == [[1.0]] * 15
    values = measure(learner_of(table, ScaledQL(td=td)), world.batch)
    assert values["clipped"] == pytest.approx(2 / 15)  # rewards 1 and -1


NARROW = C51(atoms=5, v_min=-1.0, v_max=1.0)


@pytest.mark.parametrize("double", [False, True])
def test_clipping_is_that_of_the_action_that_the_objective_backs_up(world, table, double) -> None:
    """The target network likes action 0, all of whose mass is at the top; the online one 1."""
    learner = learner_of(table, ScaledQL(td=NARROW, double=double))
    assert learner.target_net is not None
    with torch.no_grad():
        learner.target_net.get_parameter("tables.q")[:, :, 0, -1] = 50.0
        learner.target_net.get_parameter("tables.q")[:, :, 1:, 2] = 50.0
        learner.net.get_parameter("tables.q")[:, :, 1, -1] = 50.0
    backed_up_value = 0.0 if double else 0.5  # the discount is a half
    places = world.batch.reward + backed_up_value * (world.batch.discount > 0)
    expected = (places.abs() > 1).float().mean().item()
    assert measure(learner, world.batch)["clipped"] == pytest.approx(expected, abs=1e-6)


def test_clipping_of_other_objectives_is_that_of_their_own_targets(world, table) -> None:
    implicit = learner_of(table, IQL(td=NARROW))
    nn.init.constant_(implicit.net.get_parameter("tables.value"), 3.0)
    places = world.batch.reward + 3.0 * world.batch.discount
    outside = (places.abs() > 1).float().mean().item()
    assert measure(implicit, world.batch)["clipped"] == pytest.approx(outside)
    known = learner_of(table, ReturnRegression(td=NARROW))
    returns = replace(world.batch, reward=torch.linspace(-2, 2, 15))
    values = measure(known, returns)
    assert values["clipped"] == pytest.approx(8 / 15)
    assert (values["support_low"], values["support_high"]) == (-2, 2)


def test_reach_leaves_out_a_thin_tail() -> None:
    places = torch.tensor([[-50.0, -1.0, 0.0, 1.0, 70.0]])
    low, high = reach(places, torch.tensor([[1e-5, 0.3, 0.4, 0.3, 1e-5]]))
    assert (low.item(), high.item()) == (-1.0, 1.0)


class Shared(nn.Module):
    """Logits that do not depend on the task."""

    def __init__(self) -> None:
        super().__init__()
        self.neck = nn.Linear(1, 2, bias=False)
        self.head = nn.Parameter(torch.ones(2))

    def forward(self, obs: Tensor, task: Tensor) -> Outputs:
        features = self.neck(torch.ones(len(task), 1))
        available = torch.ones(len(task), 2, dtype=torch.bool)
        policy = (features * self.head)[..., None]
        return {"features": features, "policy": policy, "available": available}


def test_opposite_gradients_are_a_conflict_of_minus_1(world) -> None:
    net = Shared()
    nn.init.zeros_(net.neck.weight)
    learner = Learner(net, BehaviourCloning(), OptimConfig(), tasks=2)
    task = world.batch.task
    apart = conflict(learner, replace(world.batch, action=task), layer="neck")
    assert apart["conflict"] == pytest.approx(-1)
    together = conflict(learner, replace(world.batch, action=0 * task), layer="neck")
    assert together["conflict_worst"] == pytest.approx(1)
    assert conflict(learner, replace(world.batch, task=0 * task, action=task), layer="neck") == {}
    assert all(p.grad is None for p in net.parameters())
    with pytest.raises(ConfigError, match=r"no layer 'nek'.*did you mean neck"):
        conflict(learner, world.batch, layer="nek")


def test_measuring_changes_nothing(world, table) -> None:
    learner = learner_of(table, ScaledQL(td=MSE()))
    learner.update(world.batch)
    before = {k: torch.as_tensor(v).clone() for k, v in learner.state_dict().items()}
    measure(learner, world.batch)
    after = learner.state_dict()
    assert all(torch.equal(before[k], torch.as_tensor(after[k])) for k in before)


@pytest.mark.parametrize("objective", [IQL(), ScaledQL(td=C51())], ids=lambda o: o.kind)
def test_every_number_is_a_plain_float(world, table, objective) -> None:
    values = measure(learner_of(table, objective), world.batch, returns=world.batch.reward)
    assert all(isinstance(v, float) for v in values.values())


@pytest.mark.parametrize("name", sorted(HEALTHY))
def test_advice_comes_only_outside_the_range(name: str) -> None:
    healthy = HEALTHY[name]
    beyond = healthy.high + 1 if healthy.high < float("inf") else healthy.low - 1
    edge = healthy.high if healthy.high < float("inf") else healthy.low
    (line,) = advise({name: beyond})
    assert line.startswith(name)
    assert healthy.advice in line
    assert advise({name: edge}) == advise({name: float("nan")}) == advise({}) == []
