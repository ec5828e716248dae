"""Random actions that last: how long, how often, and over an interruption."""

from itertools import groupby

import numpy as np
import torch

from scaledq.run.explore import LONGEST, Explorer

WEIGHTS = 1 / np.arange(1, LONGEST + 1.0) ** 2
CHOICES = np.array([6, 3, 3, 18])
GREEDY = torch.eye(18)[[1, 2, 0, 5]]


def acts(explorer: Explorer, steps: range, *, epsilon: float) -> np.ndarray:
    """Actions [steps R]."""
    return np.stack([explorer.act(GREEDY, step=t, epsilon=epsilon) for t in steps])


def test_a_random_action_lasts_as_the_zeta_distribution_says() -> None:
    explorer = Explorer(np.full(4, 1_000_000), seed=3, zeta=2.0)
    chosen = acts(explorer, range(20_000), epsilon=1.0)
    lengths = [len(list(run)) for row in chosen.T for _, run in groupby(row)][:-4]
    for n in (1, 2, 3, 10):
        share = np.mean([length >= n for length in lengths])
        assert abs(share - WEIGHTS[n - 1 :].sum() / WEIGHTS.sum()) < 0.01, n
    assert max(lengths) <= LONGEST


def test_it_begins_with_probability_epsilon_only_where_none_lasts() -> None:
    explorer = Explorer(np.full(4, 1_000_000), seed=3, zeta=3.0)
    chosen = acts(explorer, range(20_000), epsilon=0.05)
    best = GREEDY.argmax(-1).numpy()
    begun = sum(key != best[row] for row in range(4) for key, _ in groupby(chosen[:, row]))
    greedy = (chosen == best).sum()
    assert abs(begun / (greedy + begun) - 0.05) < 0.005
    assert (greedy + begun) < chosen.size, "some of them lasted"


def test_it_stays_within_each_task_and_is_only_its_seed_and_steps() -> None:
    first, again = (Explorer(CHOICES, seed=5, zeta=1.5) for _ in range(2))
    chosen = acts(first, range(2_000), epsilon=0.3)
    assert (chosen < CHOICES).all()
    assert (chosen.max(0) == CHOICES - 1).all()
    np.testing.assert_array_equal(chosen, acts(again, range(2_000), epsilon=0.3))


def test_it_goes_on_where_it_was() -> None:
    whole, part, other = (Explorer(CHOICES, seed=5, zeta=1.5) for _ in range(3))
    expected = acts(whole, range(60), epsilon=0.3)
    before = acts(part, range(30), epsilon=0.3)
    assert max(part.scalars()["left"]) > 0, "an action lasts beyond the interruption"
    other.load(part.scalars())
    after = acts(other, range(30, 60), epsilon=0.3)
    np.testing.assert_array_equal(np.concatenate([before, after]), expected)


def test_without_zeta_it_is_epsilon_greedy_and_keeps_nothing() -> None:
    plain = Explorer(CHOICES, seed=5)
    assert plain.scalars() == {}
    steps = acts(plain, range(100), epsilon=0.3)
    np.testing.assert_array_equal(steps[40], plain.act(GREEDY, step=40, epsilon=0.3))
