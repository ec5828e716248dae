"""The categorical backup against two independent descriptions of it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scaledq.core.errors import ConfigError
from scaledq.learn.c51 import C51, project

SUPPORT = torch.linspace(-10, 10, 51, dtype=torch.float64)


def project_by_hand(atoms: np.ndarray, probs: np.ndarray, support: np.ndarray) -> np.ndarray:
    """Algorithm 1 of Bellemare et al. (2017), one atom at a time, as printed there."""
    out = np.zeros(len(support))
    for z, p in zip(np.clip(atoms, support[0], support[-1]), probs, strict=True):
        b = (z - support[0]) / (support[1] - support[0])
        low, high = int(np.floor(b)), int(np.ceil(b))
        if low == high:  # on a support point: the printed algorithm would drop this mass
            out[low] += p
        else:
            out[low] += p * (high - b)
            out[high] += p * (b - low)
    return out


def project_by_hats(atoms: np.ndarray, probs: np.ndarray, support: np.ndarray) -> np.ndarray:
    """Eq. 7 as printed: sum over j of [1 - |clip(T z_j) - z_i| / spacing] in [0, 1] times p_j."""
    spacing = (support[-1] - support[0]) / (len(support) - 1)
    distance = np.abs(np.clip(atoms, support[0], support[-1])[None, :] - support[:, None])
    return (np.clip(1 - distance / spacing, 0, 1) * probs).sum(1)


@pytest.mark.parametrize("reward", [0.0, 0.13, -1.0, 0.4, 25.0, -25.0])
@pytest.mark.parametrize("discount", [0.0, 0.99, 1.0])
def test_project_matches_the_published_algorithm(reward: float, discount: float) -> None:
    probs = torch.rand(7, 51, dtype=torch.float64).softmax(-1)
    atoms = (reward + discount * SUPPORT).expand(7, -1)
    rows = list(zip(atoms.numpy(), probs.numpy(), strict=True))
    ours = project(atoms, probs, SUPPORT)
    for by_hand in (project_by_hand, project_by_hats):
        expected = np.stack([by_hand(z, p, SUPPORT.numpy()) for z, p in rows])
        torch.testing.assert_close(ours, torch.from_numpy(expected))


@given(reward=st.floats(-1, 1), discount=st.floats(0, 0.9))
def test_project_keeps_mass_and_mean_inside_the_support(reward: float, discount: float) -> None:
    probs = torch.rand(1, 51, dtype=torch.float64).softmax(-1)
    atoms = reward + discount * SUPPORT[None]
    moved = project(atoms, probs, SUPPORT)
    torch.testing.assert_close(moved.sum(-1), torch.ones(1, dtype=torch.float64))
    torch.testing.assert_close((moved * SUPPORT).sum(-1), (probs * atoms).sum(-1))


@given(low=st.floats(-12, 12), step=st.floats(0, 5))
def test_a_larger_return_never_gets_a_smaller_mean(low: float, step: float) -> None:
    values = torch.tensor([low, low + step], dtype=torch.float64)
    means = (C51().target_at(values) * SUPPORT).sum(-1)
    assert means[1] >= means[0] - 1e-12


def test_every_end_of_the_support_keeps_its_mass_in_float32() -> None:
    support = torch.linspace(-10, 10, 51)
    moved = project(torch.tensor([[-10.0, 10.0]]), torch.tensor([[0.25, 0.75]]), support)
    assert (moved[0, 0].item(), moved[0, -1].item()) == (0.25, 0.75)


def test_a_terminal_transition_puts_all_mass_at_the_reward() -> None:
    target = C51().target(torch.randn(1, 51), torch.tensor([1.2]), torch.tensor([0.0]))
    torch.testing.assert_close(target[0, [27, 28, 29]], torch.tensor([0.0, 1.0, 0.0]))


def test_loss_has_the_gradient_of_cross_entropy() -> None:
    """d/dlogits of -sum target log softmax(logits) is softmax(logits) - target."""
    logits = torch.randn(3, 51, dtype=torch.float64, requires_grad=True)
    target = torch.rand(3, 51, dtype=torch.float64).softmax(-1)
    assert torch.autograd.gradcheck(lambda x: C51().loss(x, target), logits)
    (grad,) = torch.autograd.grad(C51().loss(logits, target).sum(), logits)
    torch.testing.assert_close(grad, logits.softmax(-1).detach() - target)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"atoms": 1}, "objective.td.atoms"),
        ({"v_min": 3.0, "v_max": 3.0}, "objective.td.v_min"),
        ({"v_max": float("nan")}, "objective.td.v_min"),
        ({"v_max": float("inf")}, "objective.td.v_min"),
    ],
)
def test_a_support_that_is_none_is_refused(fields: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        C51(**fields)


def test_a_reward_that_is_no_number_stays_visible() -> None:
    """It must end as a loss that is not finite, not as an index out of range."""
    moved = project(torch.full((1, 51), float("nan")), torch.full((1, 51), 1 / 51), SUPPORT.float())
    assert moved.isnan().any()
