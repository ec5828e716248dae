"""Whole episodes by quota: the same ones every time, whoever else plays."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from scaledq.core.errors import ConfigError, RunError, TaskError
from scaledq.core.outputs import Outputs
from scaledq.core.protocol import Protocol
from scaledq.core.seeds import episode_seed
from scaledq.play.envs import Ahead, Fleet, Steps, make, make_fleet
from scaledq.play.policy import Dice, NetPolicy, RandomPolicy
from scaledq.play.rollout import Episode, disturb, ordered, play, play_on
from scaledq.play.toy import TOYS, ToyEnvs, optimal_values, pictures, task
from scaledq.play.turns import make_turns

TOY = Protocol(name="toy", epsilon=0.0)
GAMES = ("Breakout", "Atlantis")  # both have four actions
SHORT = Protocol(name="short", sticky=0.25, epsilon=0.1, step_cap=140)


class Best:
    """Plays the chain and the mirror as their values say, from what the picture shows."""

    tasks, stack = ("toy:chain", "toy:mirror"), 1

    def __init__(self) -> None:
        self.q = [optimal_values(TOYS[name]) for name in ("chain", "mirror")]
        self.seen = pictures(TOYS["chain"], 8)
        self.asked: list[int] = []

    def act(self, obs: np.ndarray, task: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        self.asked.append(len(obs))
        cell = (obs[:, -1, None] == self.seen).all((-1, -2)).argmax(-1)
        return np.array(
            [self.q[head][here].argmax() for head, here in zip(task, cell, strict=True)]
        )


def network(tasks: tuple[str, ...]) -> NetPolicy:
    """A small random network that sees the pictures, the same every time."""
    torch.manual_seed(0)
    body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(84 * 84 * 2, 4))

    def net(obs: Tensor, task: Tensor) -> Outputs:
        return {"q": body(obs.float() / 255), "available": torch.ones(len(obs), 4).bool()}

    return NetPolicy(net, lambda outputs: outputs["q"], tasks, stack=2, selection="sampled")


def test_the_best_play_of_two_tasks_scores_one_each_time() -> None:
    policy = Best()
    episodes = list(play(policy, ("toy:chain", "toy:mirror"), TOY, episodes=5, slots=2))
    assert [e.score for e in episodes] == [1.0] * 10
    assert {e.length for e in episodes} == {5}
    assert {e.ended for e in episodes} == {"terminated"}
    assert set(policy.asked) == {4}  # it may remember: all rows, whoever has ended


def test_a_network_is_asked_about_the_rows_that_still_play() -> None:
    policy, asked = network(GAMES), []

    class Counting(NetPolicy):
        def act(self, obs: np.ndarray, task: np.ndarray, uniform: np.ndarray) -> np.ndarray:
            assert len(obs) == len(task) == len(uniform)
            asked.extend(task.tolist())
            return super().act(obs, task, uniform)

    counting = Counting(policy.net, policy.preferences, GAMES, stack=2, selection="sampled")
    rules = replace(SHORT, step_cap=60)
    alike = [list(play(p, GAMES, rules, episodes=5, slots=2, seed=5)) for p in (policy, counting)]
    assert alike[0] == alike[1]
    steps = [sum(e.length for e in alike[0] if e.task == name) for name in GAMES]
    assert [asked.count(head) for head in (0, 1)] == steps


def test_every_slot_plays_its_own_quota() -> None:
    episodes = list(play(Best(), ("toy:chain",), TOY, episodes=7, slots=3))
    turns = sorted((e.slot, e.index) for e in episodes)
    assert turns == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0), (2, 1)]
    assert sorted(e.number for e in episodes) == list(range(7))


def test_long_episodes_are_not_crowded_out_by_short_ones() -> None:
    """The chain's random episodes that last to the horizon are as many as chance says."""
    policy = RandomPolicy([task("chain")])
    many = list(play(policy, ("toy:chain",), TOY, episodes=400, slots=400))
    few = list(play(policy, ("toy:chain",), TOY, episodes=400, slots=8))
    long = [np.mean([e.length for e in episodes]) for episodes in (many, few)]
    assert long[0] == pytest.approx(long[1], rel=0.1)


def test_the_same_call_gives_the_same_episodes() -> None:
    rules = replace(SHORT, step_cap=60)
    first, second = (
        list(play(network(GAMES), GAMES, rules, episodes=3, slots=2, seed=5)) for _ in range(2)
    )
    assert first == second
    assert len({e.score for e in first}) > 2


def test_another_seed_gives_other_episodes() -> None:
    policy, name = RandomPolicy([task("maze")]), "toy:maze"
    first, other = (
        [e.length for e in play(policy, (name,), TOY, episodes=9, seed=seed)] for seed in (5, 6)
    )
    assert first != other


def test_a_fleet_that_has_played_plays_the_same_again() -> None:
    policy = RandomPolicy([task("chain"), task("maze")])
    fleet = make_fleet(policy.tasks, 4, SHORT, stack=1)
    first, second = (list(play_on([fleet], policy, SHORT, episodes=6, seed=2)) for _ in range(2))
    assert first == second


def test_more_episodes_begin_with_the_fewer_ones() -> None:
    policy, name = RandomPolicy([task("maze")]), "toy:maze"
    few = ordered(play(policy, (name,), TOY, episodes=3, slots=3, seed=1), (name,))
    more = ordered(play(policy, (name,), TOY, episodes=8, slots=3, seed=1), (name,))
    assert more[:3] == few


def test_another_task_beside_it_changes_nothing_for_random_play() -> None:
    policy = RandomPolicy([task("chain"), task("maze")])
    alone = list(play(policy, ("toy:maze",), SHORT, episodes=5, slots=2))
    among = list(play(policy, ("toy:chain", "toy:maze"), SHORT, episodes=5, slots=2))
    assert [e for e in among if e.task == "toy:maze"] == alone


def test_scores_and_lengths_are_those_of_the_episode_played_alone() -> None:
    """Breakout's noop policy without epsilon: play it again by hand with each episode's seed."""
    policy = NetPolicy(
        lambda obs, task: {"q": -torch.arange(4.0).expand(len(obs), 4)}, lambda o: o["q"], GAMES[:1]
    )
    rules = replace(SHORT, epsilon=0.3)
    episodes = list(play(policy, GAMES[:1], rules, episodes=3, slots=2, seed=9))
    alone = make("Breakout", 1, rules, threads=1)
    for slot in (0, 1):
        chance, step = Dice(9, "epsilon", [("Breakout", slot)]), 0
        for episode in sorted((e for e in episodes if e.slot == slot), key=lambda e: e.index):
            seed = episode_seed(9, "Breakout", slot, episode.index)
            alone.reset(np.array([True]), np.array([seed]))
            score, ends = 0.0, [""]
            for _ in range(episode.length):
                number = float(chance.at(step)[0])
                alone.send(np.array([int(number / 0.3 * 4) if number < 0.3 else 0]))
                got = alone.recv()
                score += float(got.reward[0])
                over = (bool(got.terminated[0]), bool(got.truncated[0]))
                ends.append("terminated" * over[0] + "truncated" * over[1])
                step += 1
            assert score == episode.score
            assert ends == [""] * episode.length + [episode.ended]


def test_epsilon_replaces_that_part_of_the_actions_by_uniform_ones() -> None:
    chance = np.random.default_rng(0).random(40_000)
    actions = disturb(np.full(40_000, 7), np.full(40_000, 5), chance, epsilon=0.1)
    np.testing.assert_allclose(np.bincount(actions)[:5] / 40_000, 0.1 / 5, atol=0.003)
    assert (actions == 7).mean() == pytest.approx(0.9, abs=0.005)
    untouched = disturb(np.full(9, 7), np.full(9, 5), np.zeros(9), epsilon=0.0)
    assert (untouched == 7).all()


def test_episodes_come_as_they_end_and_can_be_put_in_order() -> None:
    policy, names = RandomPolicy([task("chain"), task("maze")]), ("toy:maze", "toy:chain")
    episodes = list(play(policy, names, TOY, episodes=4, slots=2))
    tidy = ordered(episodes, names)
    assert tidy != episodes
    assert [(e.task, e.number) for e in tidy] == [(name, n) for name in names for n in range(4)]
    assert all(isinstance(e, Episode) for e in tidy)


def test_what_cannot_be_played_is_refused_before_anything_is_played() -> None:
    policy = RandomPolicy([task("chain")])
    with pytest.raises(TaskError, match="the policy cannot play 'toy:maze'"):
        next(play(policy, ("toy:chain", "toy:maze"), TOY, episodes=1))
    with pytest.raises(ConfigError, match="at least one episode and one slot, got 0 and 8"):
        next(play(policy, ("toy:chain",), TOY, episodes=0))


@contextmanager
def turns(
    names: tuple[str, ...], slots: int, protocol: Protocol, stack: int
) -> Iterator[list[Fleet]]:
    """On two processes, whatever this machine has."""
    fleets = make_turns(names, slots, protocol, stack=stack, threads=2)
    try:
        yield fleets
    finally:
        for fleet in fleets:
            fleet.close()


@pytest.mark.parametrize("names", [GAMES, GAMES[:1]])
def test_taking_turns_gives_the_episodes_of_lock_step(names: tuple[str, ...]) -> None:
    policy, rules = network(names), replace(SHORT, step_cap=70)
    one = make_fleet(names, 3, rules, stack=2, threads=1)
    plain = list(play_on([one], policy, rules, episodes=7, seed=4))
    one.close()
    with turns(names, 3, rules, 2) as fleets:
        assert [f.rows for f in fleets] == ([3, 3] if len(names) > 1 else [2, 1])
        both = list(play_on(fleets, policy, rules, episodes=7, seed=4))
    assert ordered(both, names) == ordered(plain, names)
    assert len({(e.score, e.length) for e in plain}) > 1


def test_slots_in_fleets_of_their_own_keep_names_and_quotas() -> None:
    policy = RandomPolicy([task("chain")])
    parts = (ToyEnvs("chain", 2, TOY), ToyEnvs("chain", 1, TOY))
    fleets = [
        Fleet([envs], stack=1, first=first) for envs, first in zip(parts, (0, 2), strict=True)
    ]
    apart = list(play_on(fleets, policy, TOY, episodes=7, seed=3))
    whole = list(play(policy, ("toy:chain",), TOY, episodes=7, slots=3, seed=3))
    assert ordered(apart, ("toy:chain",)) == ordered(whole, ("toy:chain",))
    assert sorted(e.number for e in apart) == list(range(7))


def test_many_tasks_make_fleets_that_are_whole_and_about_equal() -> None:
    names = (*GAMES, "Pong", "Freeway", "Qbert")
    with turns(names, 4, SHORT, 1) as fleets:
        assert [[t.name for t in fleet.tasks] for fleet in fleets] == [
            list(names[:2]),
            list(names[2:]),
        ]
    with turns(("Pong",), 1, SHORT, 1) as fleets:
        assert [fleet.names for fleet in fleets] == [[("Pong", 0)]]


class Watched(ToyEnvs):
    """The chain, which says how many steps and starts are under way, in all such."""

    under_way = 0

    def begin(self, mask: np.ndarray, seeds: np.ndarray) -> None:
        self.frames = self.reset(mask, seeds)

    def begun(self) -> np.ndarray:
        Watched.under_way -= 1
        return self.frames

    def flush(self) -> None:
        Watched.under_way += 1

    def recv(self) -> Steps:
        Watched.under_way -= 1
        return super().recv()


def test_the_others_work_while_one_is_answered() -> None:
    busy: list[int] = []

    class Asking(RandomPolicy):
        def act(self, obs: np.ndarray, task: np.ndarray, uniform: np.ndarray) -> np.ndarray:
            busy.append(Watched.under_way)
            return super().act(obs, task, uniform)

    envs = [Watched("chain", 1, TOY) for _ in range(3)]
    assert isinstance(envs[0], Ahead)
    fleets = [Fleet([e], stack=1, first=slot) for slot, e in enumerate(envs)]
    played = list(play_on(fleets, Asking([task("chain")]), TOY, episodes=6))
    assert len(played) == 6
    assert Watched.under_way == 0
    assert busy[:15] == [2] * 15  # in the end, fewer fleets are left
    assert sorted(busy, reverse=True) == busy


def test_play_that_is_left_early_or_loses_a_process_leaves_none_behind() -> None:
    policy, before = (
        RandomPolicy([make(name, 1, SHORT, threads=1).task for name in GAMES]),
        children(),
    )
    with turns(GAMES, 2, SHORT, 1) as fleets:
        next(play_on(fleets, policy, SHORT, episodes=4))
    assert children() == before
    with turns(GAMES, 2, SHORT, 1) as fleets:
        episodes = play_on(fleets, policy, SHORT, episodes=4)
        next(episodes)
        os.kill(min(children() - before), signal.SIGKILL)
        with pytest.raises(RunError, match="emulator process has died"):
            list(episodes)
    assert children() == before


def children() -> set[int]:
    """Processes of ours that run."""
    me = os.getpid()
    with open(f"/proc/{me}/task/{me}/children") as file:
        return {int(word) for word in file.read().split()}
