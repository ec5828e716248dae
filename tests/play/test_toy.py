"""The known problem is what it says: its optimum, its pictures, its refusals."""

from dataclasses import replace

import numpy as np
import pytest

from scaledq.core.errors import TaskError
from scaledq.core.protocol import SCALED_QL
from scaledq.play.envs import make_fleet
from scaledq.play.policy import RandomPolicy
from scaledq.play.rollout import play
from scaledq.play.toy import COST, chain

PROTOCOL = replace(SCALED_QL, name="toy", epsilon=0.0, step_cap=60)


def test_the_best_play_scores_one_and_random_play_far_less() -> None:
    fleet = make_fleet(["toy:chain-6-3"], 1, PROTOCOL, stack=1)
    right = chain("chain-6-3").right
    fleet.reset(np.array([True]), np.array([0]))
    total = 0.0
    for cell in range(6):
        assert fleet.obs[0, 0].argmax(-1).tolist() == [cell] * 8
        steps = fleet.step(right[[cell]])
        total += steps.reward[0]
    assert steps.terminated[0]
    assert total == 1.0
    policy = RandomPolicy(fleet.tasks)
    scores = [e.score for e in play(policy, ["toy:chain-6-3"], PROTOCOL, episodes=40)]
    assert np.mean(scores) < 0


def test_optimal_values_are_those_of_the_shortest_way() -> None:
    toy, gamma = chain("chain-5-4"), 0.9
    q = toy.optimal_values(gamma)
    for cell in range(5):
        straight = gamma ** (4 - cell)
        assert q[cell, toy.right[cell]] == pytest.approx(straight)
        back = gamma ** (4 - max(cell - 1, 0))
        wrong = [a for a in range(4) if a != toy.right[cell]]
        np.testing.assert_allclose(q[cell, wrong], -COST + gamma * back)


@pytest.mark.parametrize("name", ["toy:maze", "toy:chain-1-3", "toy:chain-9-3", "toy:chain-6-99"])
def test_a_toy_that_does_not_exist_is_refused(name: str) -> None:
    with pytest.raises(TaskError, match="toy"):
        make_fleet([name], 1, PROTOCOL, stack=1)
