"""The toys are what they say: their optimum, their pictures, their logs, their refusals."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from scaledq.core.errors import TaskError
from scaledq.core.protocol import SCALED_QL, Protocol
from scaledq.play.envs import make, make_fleet
from scaledq.play.policy import RandomPolicy
from scaledq.play.rollout import play
from scaledq.play.toy import (
    CHAIN,
    PLAYER,
    TOYS,
    Rows,
    Toy,
    expected_score,
    optimal_values,
    pictures,
    random_log,
    table,
    task,
)

PROTOCOL = Protocol(name="toy", epsilon=0.0)
ALL = pytest.mark.parametrize("toy", TOYS.values(), ids=lambda toy: toy.name)
PIECE = 4
"""Shorter than the way from any toy's start to its goal."""


def greedy(q: np.ndarray) -> np.ndarray:
    return np.eye(q.shape[1])[q.argmax(-1)]


def counts(log: Rows, toy: Toy) -> np.ndarray:
    acted = log.action >= 0
    out = np.zeros(table(toy).next.shape)
    np.add.at(out, (log.cell[acted], log.action[acted]), 1)
    return out


def learnt(log: Rows, toy: Toy) -> np.ndarray:
    """Q-learning on the log's own transitions, swept until it rests: it never sees the table."""
    acted, seen = np.flatnonzero(log.action >= 0), counts(log, toy)
    at = (log.cell[acted], log.action[acted])
    q = np.zeros(seen.shape)
    for _ in range(200):
        ahead = np.where(log.terminated[acted], 0, q.max(-1)[log.cell[acted + 1]])
        total = np.zeros(seen.shape)
        np.add.at(total, at, log.reward[acted] + toy.discount * ahead)
        q = total / np.maximum(seen, 1)
    return q


def returns(log: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Undiscounted return to go of each acted row, and its index."""
    to_go, out = 0.0, []
    for row in range(len(log.action) - 1, -1, -1):
        if log.action[row] < 0:
            to_go = 0.0
            continue
        to_go += float(log.reward[row])
        out.append((row, to_go))
    rows, values = zip(*reversed(out), strict=True)
    return np.array(rows), np.array(values)


@ALL
def test_the_optimum_is_the_best_of_all_short_plans(toy: Toy) -> None:
    """Told without value iteration: by all plans of five moves, and by the shortest ways."""
    best = optimal_values(toy)[toy.start].max()
    if toy is not TOYS["maze"]:
        assert best == pytest.approx(best_plan(toy, length=5))
    distance = shortest(toy)
    assert best == pytest.approx(max(toy.discount ** (distance["G"] - 1), 0.2 * toy.discount))


def best_plan(toy: Toy, *, length: int) -> float:
    def worth(plan: tuple[int, ...]) -> float:
        mdp, cell, total = table(toy), toy.start, 0.0
        for step, action in enumerate(plan):
            total += toy.discount**step * mdp.reward[cell, action]
            if mdp.ends[cell, action]:
                break
            cell = mdp.next[cell, action]
        return total

    return max(worth(plan) for plan in product(range(len(toy.moves)), repeat=length))


def shortest(toy: Toy) -> dict[str, int]:
    """Steps to each kind of cell by breadth-first search on the map itself."""
    width = len(toy.map[0])
    kinds = {divmod(i, width): kind for i, kind in enumerate("".join(toy.map))}
    edge, found = [divmod(toy.start, width)], {divmod(toy.start, width): 0}
    while edge:
        row, column = edge.pop(0)
        if kinds[row, column] in "bG":
            continue
        for near in ((row, column - 1), (row, column + 1), (row - 1, column), (row + 1, column)):
            if kinds.get(near, "#") != "#" and near not in found:
                found[near] = found[row, column] + 1
                edge.append(near)
    return {kind: min(found[c] for c in found if kinds[c] == kind) for kind in "bG"}


@ALL
def test_the_goal_is_too_far_for_a_piece_and_the_bait_is_not(toy: Toy) -> None:
    distance = shortest(toy)
    assert distance["b"] <= PIECE < distance["G"] < toy.horizon


@ALL
def test_best_play_scores_one_and_random_play_far_less(toy: Toy) -> None:
    q = optimal_values(toy)
    assert expected_score(toy, greedy(q)) == 1.0
    chance = expected_score(toy, np.full(q.shape, 1 / q.shape[1]))
    assert chance < 0.35
    policy, name = RandomPolicy([task(toy.name)]), f"toy:{toy.name}"
    scores = [e.score for e in play(policy, [name], PROTOCOL, episodes=1_000, slots=100)]
    assert np.mean(scores) == pytest.approx(chance, abs=0.05)


@ALL
@pytest.mark.parametrize("piece", [None, PIECE])
def test_values_from_random_play_find_the_goal_and_cloning_it_does_not(
    toy: Toy, piece: int | None
) -> None:
    log = random_log(toy.name, 4_000, seed=1, piece=piece)
    assert expected_score(toy, greedy(learnt(log, toy))) == 1.0
    seen = counts(log, toy)
    cloned = seen / np.maximum(seen.sum(-1, keepdims=True), 1)
    assert expected_score(toy, cloned) < 0.4


@ALL
def test_no_return_in_a_log_of_pieces_tells_the_way_from_the_start(toy: Toy) -> None:
    """Cloning the actions with the best return ever seen in a cell walks into the bait."""
    log = random_log(toy.name, 4_000, seed=1, piece=PIECE)
    rows, to_go = returns(log)
    cell, action = log.cell[rows], log.action[rows]
    assert to_go[cell == toy.start].max() == pytest.approx(0.2)
    policy = np.zeros(table(toy).next.shape)
    for here in set(cell.tolist()):
        best = (cell == here) & np.isclose(to_go, to_go[cell == here].max())
        np.add.at(policy[here], action[best], 1 / best.sum())
    assert expected_score(toy, policy) < 0.5


def test_play_follows_the_table() -> None:
    envs, mdp = make("toy:chain", 2, PROTOCOL), table(CHAIN)
    seen = pictures(CHAIN, 8)
    cell, reward = np.array([CHAIN.start] * 2), 0.0
    frames = envs.reset(np.ones(2, bool), np.arange(2))
    for actions in np.array([[1, 2], [1, 1], [0, 2], [1, 1], [1, 1], [1, 1], [1, 1]]):
        np.testing.assert_array_equal(frames, seen[cell])
        envs.send(actions)
        steps = envs.recv()
        np.testing.assert_array_equal(steps.reward, mdp.reward[cell, actions].astype(np.float32))
        np.testing.assert_array_equal(steps.terminated, mdp.ends[cell, actions])
        cell, frames, reward = mdp.next[cell, actions], steps.frames, steps.reward
    np.testing.assert_array_equal(reward, [1.0, 1.0])


def test_an_episode_is_truncated_at_the_horizon() -> None:
    fleet = make_fleet(["toy:chain"], 1, SCALED_QL, stack=1)
    fleet.reset(np.array([True]), np.array([0]))
    ends = [fleet.step(np.array([2])) for _ in range(CHAIN.horizon)]
    assert [bool(s.truncated[0]) for s in ends] == [False] * (CHAIN.horizon - 1) + [True]
    assert not any(s.terminated[0] for s in ends)


def test_sticky_actions_hold_for_toys_too() -> None:
    always = replace(PROTOCOL, sticky=1.0)
    envs = make("toy:chain", 1, always)
    envs.reset(np.array([True]), np.array([0]))
    rewards = []
    for action in (1, 2, 2, 2, 2):  # the first move is repeated whatever is sent
        envs.send(np.array([action]))
        rewards.append(float(envs.recv().reward[0]))
    assert rewards == [0, 0, 0, 0, 1]


def test_a_log_says_what_happened_row_by_row() -> None:
    log = random_log("maze", 500, seed=3, piece=PIECE)
    mdp, closing = table(TOYS["maze"]), log.action == -1
    acted = np.flatnonzero(~closing)
    np.testing.assert_array_equal(log.cell[acted + 1], mdp.next[log.cell[acted], log.action[acted]])
    np.testing.assert_array_equal((log.terminated | log.truncated)[acted], closing[acted + 1])
    assert not (log.terminated & log.truncated).any()
    assert not log.reward[closing].any()
    np.testing.assert_array_equal(log.frames, pictures(TOYS["maze"], 8)[log.cell])


@pytest.mark.parametrize(("name", "side"), [("chain", 8), ("maze@84", 84), ("mirror@7", 7)])
def test_pictures_have_the_wanted_side_and_show_the_player_once(name: str, side: int) -> None:
    toy = TOYS[name.partition("@")[0]]
    seen = pictures(toy, side)
    assert task(name).frame_shape == seen.shape[1:] == (side, side)
    size = side // max(len(toy.map), len(toy.map[0]))
    assert ((seen == PLAYER).sum((1, 2)) == size**2).all()
    assert len(np.unique(seen.reshape(len(seen), -1), axis=0)) == len(seen)


def test_chain_and_mirror_look_alike_and_want_other_actions() -> None:
    np.testing.assert_array_equal(pictures(CHAIN, 8), pictures(TOYS["mirror"], 8))
    start = CHAIN.start
    best = [optimal_values(TOYS[name])[start].argmax() for name in ("chain", "mirror")]
    assert best[0] != best[1]
    assert task("chain").actions != task("mirror").actions


@pytest.mark.parametrize("name", ["toy:chian", "toy:chain@6", "toy:chain@x", "toy:"])
def test_a_toy_that_does_not_exist_is_refused(name: str) -> None:
    with pytest.raises(TaskError, match="toy"):
        make_fleet([name], 1, PROTOCOL, stack=1)


def test_a_misspelt_toy_is_answered_with_the_one_meant() -> None:
    with pytest.raises(TaskError, match="did you mean chain"):
        make("toy:chian", 1, PROTOCOL)
