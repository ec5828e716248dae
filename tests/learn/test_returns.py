import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scaledq.learn.returns import lambda_returns


def by_definition(reward, terminated, truncated, value, *, gamma, lam) -> np.ndarray:
    """The lambda-weighted average of n-step returns, each summed forwards, one environment."""
    steps = len(reward)
    out = np.zeros(steps)
    for start in range(steps):
        end = next((t for t in range(start, steps) if terminated[t] or truncated[t]), steps - 1)
        horizon = end - start + 1
        total = 0.0
        for n in range(1, horizon + 1):
            last = start + n - 1
            n_step = sum(gamma**k * reward[start + k] for k in range(n))
            n_step += 0.0 if terminated[last] else gamma**n * value[last]
            weight = lam ** (n - 1) * (1 - lam) if n < horizon else lam ** (horizon - 1)
            total += weight * n_step
        out[start] = total
    return out


@given(seed=st.integers(0, 2**31), gamma=st.floats(0, 1), lam=st.floats(0, 1))
def test_lambda_returns_are_the_weighted_average_of_n_step_returns(seed, gamma, lam) -> None:
    rng = np.random.default_rng(seed)
    reward, value = rng.normal(size=(2, 12, 3))
    terminated, truncated = rng.random((2, 12, 3)) < 0.15
    ours = lambda_returns(
        *(torch.tensor(x) for x in (reward, terminated, truncated, value)), gamma=gamma, lam=lam
    )
    for row in range(3):
        columns = (x[:, row] for x in (reward, terminated, truncated, value))
        expected = by_definition(*columns, gamma=gamma, lam=lam)
        np.testing.assert_allclose(ours[:, row].numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("lam", [0.0, 0.65, 1.0])
def test_true_values_are_a_fixed_point_for_every_lambda(lam: float) -> None:
    """Reward 1 for ever: every return is 1 / (1 - gamma)."""
    never = torch.zeros(5, 2, dtype=torch.bool)
    value = torch.full((5, 2), 10.0)
    ours = lambda_returns(torch.ones(5, 2), never, never, value, gamma=0.9, lam=lam)
    torch.testing.assert_close(ours, value)


def test_nothing_beyond_a_termination_is_seen() -> None:
    reward = torch.tensor([[1.0], [2.0]])
    terminated = torch.tensor([[True], [False]])
    never = torch.zeros(2, 1, dtype=torch.bool)
    nan_after_the_end = torch.tensor([[float("nan")], [3.0]])
    ours = lambda_returns(reward, terminated, never, nan_after_the_end, gamma=0.9, lam=0.5)
    torch.testing.assert_close(ours, torch.tensor([[1.0], [4.7]]))
