import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scaledq.learn.c51 import C51
from scaledq.learn.cql import calibrated_gap, gap, masked, of_action


def test_gap_is_eq_1_written_with_sums() -> None:
    q = torch.randn(4, 5, dtype=torch.float64)
    action, count = torch.tensor([0, 2, 1, 0]), [1, 3, 5, 2]
    available = torch.arange(5) < torch.tensor(count)[:, None]
    expected = [
        torch.stack([q[b, a].exp() for a in range(count[b])]).sum().log() - q[b, action[b]]
        for b in range(4)
    ]
    torch.testing.assert_close(gap(q, action, available), torch.stack(expected))


@given(st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=18), st.integers(0, 30))
def test_gap_is_never_negative_and_blind_to_padding(values: list[float], padding: int) -> None:
    q = torch.tensor([values + [99.0] * padding], dtype=torch.float64, requires_grad=True)
    available = torch.arange(q.shape[1])[None] < len(values)
    padded = gap(q, torch.tensor([1]), available)
    plain = gap(q[:, : len(values)], torch.tensor([1]), available[:, : len(values)])
    assert padded.item() >= 0
    assert padded.item() == pytest.approx(plain.item(), rel=1e-12, abs=1e-12)
    (grad,) = torch.autograd.grad(padded.sum(), q)
    assert not grad[:, len(values) :].any()


def test_a_task_with_a_single_action_has_no_gap() -> None:
    q = torch.tensor([[3.0, 70.0]])
    assert gap(q, torch.tensor([0]), torch.tensor([[True, False]])).item() == 0


def test_conservatism_raises_the_logged_action_and_lowers_the_rest() -> None:
    td = C51()
    logits = torch.zeros(1, 3, 51, dtype=torch.float64, requires_grad=True)
    loss = gap(td.q(logits), torch.tensor([1]), torch.ones(1, 3, dtype=torch.bool))
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    q_change = -(grad * td.support(logits)).sum(-1)[0]  # first-order effect of one descent step
    assert q_change[1] > 0 > max(q_change[0], q_change[2])


def test_masked_and_of_action_pick_slots() -> None:
    values = torch.arange(6.0).view(2, 3)
    available = torch.tensor([[True, True, False], [True, True, True]])
    assert masked(values, available).argmax(-1).tolist() == [1, 2]
    assert of_action(values, torch.tensor([2, 0])).tolist() == [2.0, 3.0]
    assert of_action(values[..., None], torch.tensor([2, 0])).tolist() == [[2.0], [3.0]]


NAN = float("nan")


def test_the_calibrated_gap_is_written_with_sums_and_floors() -> None:
    """Four rows: a floor among the values, one above them all, one below, an unknown one."""
    q = torch.tensor([[1.0, -2, 3], [0.5, 0, 9], [1, 2, 9], [4, 1, 0]], dtype=torch.float64)
    action, count = [1, 0, 1, 2], [3, 2, 2, 3]
    returns = [0.5, 7.0, -8.0, NAN]
    expected = [
        math.log(math.exp(1.0) + math.exp(0.5) + math.exp(3.0)) + 2.0,
        math.log(2 * math.exp(7.0)) - 0.5,
        math.log(math.exp(1.0) + math.exp(2.0)) - 2.0,
        0.0,
    ]
    available = torch.arange(3) < torch.tensor(count)[:, None]
    found = calibrated_gap(q, torch.tensor(action), available, torch.tensor(returns))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_calibration_pushes_down_only_what_lies_above_the_return() -> None:
    q = torch.tensor([[1.0, -2, 3], [1.0, -2, 3]], dtype=torch.float64, requires_grad=True)
    every, action = torch.ones(2, 3, dtype=torch.bool), torch.tensor([1, 0])
    loss = calibrated_gap(q, action, every, torch.tensor([2.0, NAN], dtype=torch.float64))
    (grad,) = torch.autograd.grad(loss.sum(), q)
    share = math.exp(3.0) / (math.exp(3.0) + 2 * math.exp(2.0))
    torch.testing.assert_close(grad[0], torch.tensor([0.0, -1.0, share], dtype=torch.float64))
    assert not grad[1].any(), "an episode that has not ended holds nothing down"


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=18), st.floats(-100, 100))
def test_the_calibrated_gap_is_never_below_the_plain_one_nor_negative(
    values: list[float], floor: float
) -> None:
    q, action = torch.tensor([values], dtype=torch.float64), torch.tensor([1])
    every = torch.ones_like(q, dtype=torch.bool)
    found = calibrated_gap(q, action, every, torch.tensor([floor], dtype=torch.float64))
    plain = gap(q, action, every)
    assert found >= plain >= 0
    if floor <= min(values):
        torch.testing.assert_close(found, plain)
