"""TD errors other than C51: printed definitions in loops, closed forms, and properties."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scaledq.core.errors import ConfigError
from scaledq.learn.hl_gauss import HLGauss, TwoHot
from scaledq.learn.td import MSE, QuantileRegression


def normal_cdf(x: float, mean: float, sigma: float) -> float:
    return 0.5 * (1 + math.erf((x - mean) / (sigma * math.sqrt(2))))


@pytest.mark.parametrize("value", [0.0, 0.1, -3.3, 9.9, 10.0, 40.0])
def test_hl_gauss_is_the_normal_mass_of_each_bin(value: float) -> None:
    td = HLGauss()
    width = 20 / 51
    edges = [-10 + i * width for i in range(52)]
    centre = min(max(value, -10), 10)
    mass = [normal_cdf(b, centre, 0.75 * width) for b in edges]
    expected = np.diff(mass) / (mass[-1] - mass[0])
    ours = td.target_at(torch.tensor([value], dtype=torch.float64))
    np.testing.assert_allclose(ours[0].numpy(), expected, atol=1e-12)


@given(st.floats(-8, 8))
def test_hl_gauss_away_from_the_ends_keeps_mass_and_mean(value: float) -> None:
    td = HLGauss()
    target = td.target_at(torch.tensor([value], dtype=torch.float64))
    assert target.sum().item() == pytest.approx(1)
    # Bins blur the Gaussian; at 0.75 widths the mean of the centres is within 1e-5 of the value.
    assert td.q(target.log()).item() == pytest.approx(value, abs=1e-5)
    assert target.topk(6).values.sum() > 0.999


@given(low=st.floats(-12, 12), step=st.floats(0, 5))
@pytest.mark.parametrize("td", [HLGauss(), TwoHot()], ids=["hl_gauss", "two_hot"])
def test_a_larger_value_never_gets_a_smaller_mean(td, low: float, step: float) -> None:
    values = torch.tensor([low, low + step], dtype=torch.float64)
    below, above = td.q(td.target_at(values).log()).tolist()
    assert above >= below - 1e-9


@given(st.floats(-10, 10))
def test_two_hot_is_at_most_two_neighbours_with_the_values_mean(value: float) -> None:
    td = TwoHot()
    target = td.target_at(torch.tensor([value], dtype=torch.float64))[0]
    held = target.nonzero().flatten()
    assert len(held) <= 2
    assert held[-1] - held[0] <= 1
    assert target.sum().item() == pytest.approx(1)
    assert (target * td.support(target)).sum().item() == pytest.approx(value, abs=1e-9)


def test_scalar_targets_are_reward_plus_discounted_value() -> None:
    reward, discount = torch.tensor([1.0, -0.5]), torch.tensor([0.9, 0.0])
    for td in (HLGauss(), TwoHot(), MSE()):
        outputs = torch.randn(2, td.size)
        expected = td.target_at(reward + discount * td.q(outputs))
        torch.testing.assert_close(td.target(outputs, reward, discount), expected)


def test_quantile_loss_is_eq_10_in_loops() -> None:
    td = QuantileRegression(quantiles=5, kappa=0.7)
    theta, target = torch.randn(3, 5).double(), 2 * torch.randn(3, 5).double()
    for b, ours in enumerate(td.loss(theta, target)):
        total = 0.0
        for i in range(5):
            for j in range(5):
                u = (target[b, j] - theta[b, i]).item()
                huber = 0.5 * u * u if abs(u) <= 0.7 else 0.7 * (abs(u) - 0.35)
                total += abs((i + 0.5) / 5 - (u < 0)) * huber / 0.7 / 5
        assert ours.item() == pytest.approx(total)


def test_quantiles_of_a_known_distribution_are_found() -> None:
    """With a small kappa the minimiser at level tau is the tau-quantile: here of 0, 1, ..., 99."""
    td = QuantileRegression(quantiles=4, kappa=1e-3)
    theta = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([theta], lr=1.0)
    target = torch.arange(100.0, dtype=torch.float64)[None]
    for step in range(400):
        optimizer.param_groups[0]["lr"] = 2.0 * (1 - step / 400)
        optimizer.zero_grad()
        td.loss(theta, target).sum().backward()
        optimizer.step()
    np.testing.assert_allclose(theta.detach()[0], [12, 37, 62, 87], atol=1)


@given(st.floats(-1e3, 1e3))
def test_q_of_quantiles_moves_with_them(shift: float) -> None:
    td, theta = QuantileRegression(quantiles=7), torch.randn(2, 7).double()
    torch.testing.assert_close(td.q(theta + shift), td.q(theta) + shift)


def test_squared_and_huber_errors() -> None:
    outputs, target = torch.tensor([[0.5], [4.0]]), torch.tensor([0.0, 0.0])
    assert MSE().loss(outputs, target).tolist() == [0.25, 16.0]
    assert MSE(huber=1.0).loss(outputs, target).tolist() == [0.125, 3.5]


@pytest.mark.parametrize(
    "td", [HLGauss(bins=7), TwoHot(atoms=7), MSE(), MSE(huber=0.5), QuantileRegression(quantiles=4)]
)
def test_losses_have_exact_gradients(td: Any) -> None:
    outputs = torch.randn(3, td.size, dtype=torch.float64, requires_grad=True)
    target = td.target_at(torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda x: td.loss(x, target), outputs)


@pytest.mark.parametrize(
    ("td", "fields", "named"),
    [
        (HLGauss(), {"bins": 1}, "objective.td.bins"),
        (HLGauss(), {"v_min": 10.0}, "objective.td.v_min"),
        (HLGauss(), {"sigma": 0.0}, "objective.td.sigma"),
        (TwoHot(), {"atoms": 0}, "objective.td.atoms"),
        (TwoHot(), {"v_max": -10.0}, "objective.td.v_min"),
        (QuantileRegression(), {"quantiles": 0}, "objective.td.quantiles"),
        (QuantileRegression(), {"kappa": 0.0}, "objective.td.kappa"),
        (MSE(), {"huber": -1.0}, "objective.td.huber"),
    ],
)
def test_contradictions_are_refused_by_name(td: Any, fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        replace(td, **fields)
