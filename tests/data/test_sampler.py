"""A step's rows are a function of (seed, step), and tasks get their shares."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scaledq.data.sampler import sample

SIZES = np.array([10, 1000, 3])
EVEN = np.ones(3) / 3


def test_a_step_is_named_by_seed_and_step_alone() -> None:
    once, again = (sample(SIZES, EVEN, seed=1, step=7, batch=64) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, sample(SIZES, EVEN, seed=1, step=8, batch=64))
    assert not np.array_equal(once, sample(SIZES, EVEN, seed=2, step=7, batch=64))


def test_tasks_get_their_shares_whatever_their_sizes() -> None:
    shares = np.array([0.5, 0.2, 0.3])
    task, _ = sample(SIZES, shares, seed=0, step=0, batch=30_000)
    np.testing.assert_allclose(np.bincount(task) / 30_000, shares, atol=0.01)


def test_transitions_of_a_task_are_uniform() -> None:
    task, index = sample(SIZES, EVEN, seed=0, step=0, batch=60_000)
    found = np.bincount(index[task == 0], minlength=10) / (task == 0).sum()
    np.testing.assert_allclose(found, 0.1, atol=0.01)


@given(
    sizes=st.lists(st.integers(1, 2**50), min_size=1, max_size=5),
    seed=st.integers(0, 2**63),
    step=st.integers(0, 2**40),
)
def test_indices_lie_inside_their_task(sizes: list[int], seed: int, step: int) -> None:
    many = np.array(sizes)
    task, index = sample(many, np.ones(len(many)), seed=seed, step=step, batch=32)
    assert ((index >= 0) & (index < many[task])).all()


def test_the_stream_is_frozen() -> None:
    """Resumed runs must see the batches they would have seen: a change here orphans every run."""
    task, index = sample(SIZES, EVEN, seed=0, step=0, batch=6)
    assert (task.tolist(), index.tolist()) == ([0, 0, 0, 1, 1, 0], [9, 9, 2, 195, 711, 1])
