import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scaledq.learn.c51 import C51
from scaledq.learn.cql import gap, masked, of_action


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
