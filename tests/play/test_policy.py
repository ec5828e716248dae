"""Who chooses: networks greedy and sampled, chance single and persistent, and its dice."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scaledq.core.errors import TaskError
from scaledq.core.outputs import Outputs
from scaledq.core.task import Task
from scaledq.play.policy import Dice, NetPolicy, PersistentPolicy, RandomPolicy, choose

TASKS = (Task(name="two", actions=2), Task(name="five", actions=5), Task(name="three", actions=3))


class Pixels(torch.nn.Module):
    """Prefers the action that stands in the last frame's first pixel; head 0 has two actions."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []

    def forward(self, obs: Tensor, task: Tensor) -> Outputs:
        self.rows.append(len(obs))
        q = torch.nn.functional.one_hot(obs[:, -1, 0, 0].long(), 5).float()
        return {"q": q, "available": torch.arange(5) < torch.tensor([2, 5])[task][:, None]}


def preferences(outputs: Outputs) -> Tensor:
    return outputs["q"].masked_fill(~outputs["available"], -torch.inf)


def stacks(*pixels: int) -> np.ndarray:
    obs = np.zeros((len(pixels), 2, 3, 3), np.uint8)
    obs[:, -1, 0, 0] = pixels
    return obs


def blind(rows: int) -> np.ndarray:
    return np.empty((rows, 1, 0))


def test_all_tasks_are_asked_in_one_forward_and_no_task_gets_an_action_it_lacks() -> None:
    net = Pixels()
    policy = NetPolicy(net, preferences, ("Pong", "Boxing"), stack=2)
    actions = policy.act(stacks(1, 4, 4), np.array([0, 1, 0]), np.zeros(3))
    assert actions.tolist() == [1, 4, 0]
    assert net.rows == [3]
    assert policy.values(stacks(1), np.array([0])).tolist() == [[0, 1, *[-np.inf] * 3]]


def test_a_policy_is_called_with_frames_and_the_name_of_a_task() -> None:
    policy = NetPolicy(Pixels(), preferences, ("Pong", "Boxing"), stack=2)
    assert policy(stacks(3, 1), task="Boxing").tolist() == [3, 1]
    with pytest.raises(TaskError, match="did you mean Boxing"):
        policy(stacks(1), task="Boxin")
    with pytest.raises(TaskError, match="say which task: Pong, Boxing"):
        policy(stacks(1))
    with pytest.raises(TaskError, match=r"need observations \[R 2 \*frame\], got \[1, 4, 3, 3\]"):
        policy(np.zeros((1, 4, 3, 3), np.uint8), task="Pong")
    assert NetPolicy(Pixels(), preferences, ("Pong",), stack=2)(stacks(1)).tolist() == [1]


def test_a_sampled_policy_draws_from_the_softmax() -> None:
    policy = NetPolicy(Pixels(), preferences, ("Pong", "Boxing"), stack=2, selection="sampled")
    actions = policy(stacks(*[2] * 4_000), task="Boxing", rng=np.random.default_rng(0))
    expected = torch.nn.functional.one_hot(torch.tensor(2), 5).float().softmax(-1).numpy()
    np.testing.assert_allclose(np.bincount(actions) / 4_000, expected, atol=0.02)
    same = policy(stacks(*[2] * 4_000), task="Boxing", rng=np.random.default_rng(0))
    np.testing.assert_array_equal(actions, same)


@settings(deadline=None)
@given(
    logits=st.lists(st.sampled_from([-np.inf, -3.0, 0.0, 1.5, 80.0]), min_size=2, max_size=6),
    uniform=st.floats(0, 1, exclude_max=True),
)
def test_sampling_inverts_the_distribution_and_never_takes_what_is_missing(
    logits: list[float], uniform: float
) -> None:
    if max(logits) == -np.inf:
        return
    (action,) = choose(np.array([logits]), np.array([uniform]), selection="sampled")
    assert logits[action] > -np.inf
    probs = torch.tensor(logits, dtype=torch.float64).softmax(-1).numpy()
    assert probs[:action].sum() <= uniform + 1e-9
    assert uniform <= probs[: action + 1].sum() + 1e-9


def test_dice_give_each_row_and_step_its_own_numbers_in_any_order() -> None:
    rows = [("a", 0), ("a", 1), ("b", 0)]
    dice, again = Dice(3, "x", rows), Dice(3, "x", rows)
    forwards = [dice.at(step) for step in range(600)]
    for step in (599, 3, 256, 255, 3):
        np.testing.assert_array_equal(again.at(step), forwards[step])
    assert len(np.unique(forwards)) == 600 * 3
    np.testing.assert_array_equal(Dice(3, "x", rows[2:]).at(7), forwards[7][2:])
    assert not np.isin(Dice(3, "y", rows).at(7), forwards).any()
    assert not np.isin(Dice(4, "x", rows).at(7), forwards).any()


def test_random_play_takes_every_action_of_its_task_equally_often() -> None:
    policy = RandomPolicy(TASKS)
    task = np.repeat([1, 2], 6_000)
    actions = policy.act(blind(12_000), task, np.random.default_rng(0).random(12_000))
    np.testing.assert_allclose(np.bincount(actions[:6_000]) / 6_000, 1 / 5, atol=0.02)
    np.testing.assert_allclose(np.bincount(actions[6_000:]) / 6_000, 1 / 3, atol=0.02)


def persistent(dice: Dice, steps: range, *, policy: PersistentPolicy) -> np.ndarray:
    task = np.arange(len(dice.rows)) % len(TASKS)
    return np.array([policy.act(blind(len(task)), task, dice.at(step)) for step in steps])


def test_persistent_play_holds_each_action_for_a_geometric_time() -> None:
    dice = Dice(0, "play", [("x", slot) for slot in range(30)])
    played = persistent(dice, range(3_000), policy=PersistentPolicy(TASKS, hold=16.0))
    five = played[:, 1::3]
    np.testing.assert_allclose(np.bincount(five.ravel()) / five.size, 1 / 5, atol=0.05)
    # A draw changes the action in 4 of 5 cases, and there is one every 16 steps.
    changed = (five[1:] != five[:-1]).mean()
    assert changed == pytest.approx(1 / 16 * 4 / 5, rel=0.1)
    # Memoryless: a change is as likely right after a change as at any other time.
    soon = (five[1:] != five[:-1])[1:][(five[1:] != five[:-1])[:-1]].mean()
    assert soon == pytest.approx(changed, abs=0.02)


@pytest.mark.parametrize("step", [0, 1, 5, 300, 777])
def test_persistent_play_can_be_taken_up_at_any_step(step: int) -> None:
    dice = Dice(1, "play", [("x", slot) for slot in range(6)])
    whole = persistent(dice, range(800), policy=PersistentPolicy(TASKS, hold=40.0))
    resumed = PersistentPolicy(TASKS, hold=40.0)
    resumed.recall(np.arange(6) % 3, Dice(1, "play", dice.rows), step)
    np.testing.assert_array_equal(persistent(dice, range(step, 800), policy=resumed), whole[step:])


def test_an_action_held_for_less_than_a_step_is_refused() -> None:
    with pytest.raises(TaskError, match="at least 1 step"):
        PersistentPolicy(TASKS, hold=0.5)
