"""Return inference against brute force; what a policy remembers against a whole reading anew."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from scaledq.core.errors import ConfigError, TaskError
from scaledq.core.protocol import Protocol
from scaledq.core.vocabulary import Vocabulary
from scaledq.nets.decoder import Decoder
from scaledq.nets.transformer import Transformer, TransformerConfig
from scaledq.play.envs import make_fleet
from scaledq.play.policy import Dice
from scaledq.play.rollout import ordered, play, play_on
from scaledq.play.sequence import SequencePolicy, best_return, expert_return, upper

TASKS = ("toy:chain", "toy:maze")
RETURNS, KAPPA, CONTEXT = 5, 3.0, 3
RULES = Protocol(name="toy", epsilon=0.2, sticky=0.1)


def softmax(x: np.ndarray) -> np.ndarray:
    weights = np.exp(x - x.max())
    return weights / weights.sum()


def grid(draw: Callable[[np.ndarray, np.ndarray], np.ndarray], logits: np.ndarray) -> np.ndarray:
    """How often each class comes out over evenly spaced numbers in [0, 1)."""
    uniform = (np.arange(20_000) + 0.5) / 20_000
    drawn = draw(np.tile(logits, (len(uniform), 1)), uniform)
    return np.bincount(drawn, minlength=len(logits)) / len(uniform)


def test_the_experts_return_has_the_bent_distribution() -> None:
    logits = np.array([2.0, -1.0, 0.5, 0.0, -3.0])
    prior = softmax(logits)
    bent = [p * np.exp(KAPPA * k / (RETURNS - 1)) for k, p in enumerate(prior)]
    found = grid(lambda x, u: expert_return(x, u, kappa=KAPPA), logits)
    np.testing.assert_allclose(found, np.array(bent) / sum(bent), atol=2e-4)
    plain = grid(lambda x, u: expert_return(x, u, kappa=0.0), logits)
    np.testing.assert_allclose(plain, prior, atol=2e-4)
    assert grid(lambda x, u: expert_return(x, u, kappa=1e6), logits)[-1] == 1


def test_the_best_of_many_draws_is_drawn_at_once() -> None:
    logits, samples = np.array([3.0, 1.0, 0.0, -2.0]), 4
    found = grid(lambda x, u: best_return(x, u, samples=samples, temperature=0.75), logits)
    rng = np.random.default_rng(0)
    drawn = rng.choice(4, size=(200_000, samples), p=softmax(0.75 * logits)).max(1)
    np.testing.assert_allclose(found, np.bincount(drawn, minlength=4) / len(drawn), atol=5e-3)
    exact = np.diff(np.cumsum(softmax(0.75 * logits)) ** samples, prepend=0)
    np.testing.assert_allclose(found, exact, atol=2e-4)


def test_the_upper_half_is_of_the_actions_that_a_task_has() -> None:
    logits = np.array([[1.0, 4.0, 2.0, 3.0, -np.inf], [7.0, *[-np.inf] * 4]])
    kept = np.isfinite(upper(logits, percentile=50.0))
    assert kept.tolist() == [[False, True, False, True, False], [True] + [False] * 4]


@pytest.fixture(scope="module")
def net() -> Transformer:
    torch.manual_seed(0)
    cfg = TransformerConfig(width=32, heads=2, layers=2, patch=8, dropout=0.0)
    words = Vocabulary(((0, 1, 2), (3, 4, 5, 6, 7, 8)), 9)
    made = Transformer(cfg, (8, 8), context=CONTEXT, vocabulary=words, returns=RETURNS)
    for parameter in made.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return made.eval()


def policy_of(net: Transformer, **options) -> SequencePolicy:
    options = {"context": CONTEXT, "kappa": KAPPA} | options
    return SequencePolicy(lambda rows: Decoder(net, rows), TASKS, **options)


class Reread:
    """The same rule, told from the start: keeps whole episodes and reads each window anew."""

    def __init__(self, net: Transformer, rows: int, keep: int):
        self.net, self.keep = net, keep
        self.window: list[list[tuple[np.ndarray, int, int]]] = [[] for _ in range(rows)]
        self.hoped = [0] * rows

    def probabilities(self, row: int, frame: np.ndarray, task: int, uniform: float) -> np.ndarray:
        if len(self.window[row]) == CONTEXT:
            self.window[row] = self.window[row][CONTEXT - self.keep :]
            anew = True
        else:
            anew = not self.window[row]
        steps = [*self.window[row], (frame, 0, 1)]
        inputs = [
            torch.tensor(np.stack([s[0] for s in steps]))[None],
            torch.tensor([task]),
            torch.tensor([[s[1] for s in steps]]),
            torch.tensor([[s[2] for s in steps]]),
        ]
        if anew:
            logits = self.answer(*inputs, torch.tensor([0]))["return"].double().numpy()
            self.hoped[row] = int(expert_return(logits, np.array([uniform]), kappa=KAPPA)[0])
        out = self.answer(*inputs, torch.tensor([self.hoped[row]]))
        own = out["policy"][0, -1].double().numpy()[: int(out["available"].sum())]
        return softmax(own)

    def answer(self, *inputs: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            return self.net(*inputs)

    def note(self, row: int, frame: np.ndarray, action: int, reward: float, ended: bool) -> None:
        self.window[row].append((frame, action, int(np.sign(reward)) + 1))
        if ended:
            self.window[row] = []


@pytest.mark.parametrize("keep", [2, 1, 0])
def test_remembering_is_reading_anew(net: Transformer, keep: int) -> None:
    policy = policy_of(net, keep=keep)
    fleet = make_fleet(TASKS, 3, RULES, stack=policy.stack)
    policy.start(fleet.rows)
    slow = Reread(net, fleet.rows, keep)
    dice, chance = Dice(0, "choice", fleet.names), np.random.default_rng(0)
    fleet.reset(np.ones(fleet.rows, bool), np.arange(fleet.rows))
    episodes = 0
    for step in range(40):
        uniform = dice.at(step)
        seen = fleet.obs.copy()
        thought = policy.appraise(fleet.obs, fleet.task_index, uniform)
        for row in range(fleet.rows):
            task = int(fleet.task_index[row])
            expected = slow.probabilities(row, seen[row, -1], task, uniform[row])
            np.testing.assert_allclose(
                thought.values[row], np.pad(expected, (0, 6 - len(expected))), atol=1e-5
            )
        wild = chance.integers(3, size=fleet.rows)  # what is done need not be what was chosen
        actions = np.where(chance.random(fleet.rows) < 0.3, wild, thought.actions)
        steps = fleet.step(actions)
        policy.note(actions, steps)
        for row in range(fleet.rows):
            slow.note(row, seen[row, -1], int(actions[row]), steps.reward[row], steps.ended[row])
        if steps.ended.any():
            episodes += int(steps.ended.sum())
            fleet.reset(steps.ended, np.arange(step, step + int(steps.ended.sum())))
    fleet.close()
    assert episodes > 2


@pytest.mark.parametrize("selection", ["greedy", "sampled", "notebook"])
def test_a_rollout_plays_it_the_same_twice_whatever_was_played_before(
    net: Transformer, selection
) -> None:
    policy = policy_of(net, selection=selection)
    first, again = (list(play(policy, TASKS, RULES, episodes=6, slots=3, seed=4)) for _ in range(2))
    assert first == again
    assert len(first) == 12


def test_in_turns_it_remembers_each_fleet_by_itself(net: Transformer) -> None:
    policy = policy_of(net, keep=1)
    fleets = [make_fleet([name], 3, RULES, stack=policy.stack) for name in TASKS]
    both = list(play_on(fleets, policy, RULES, episodes=6, seed=4))
    alone = [e for f in fleets for e in play_on([f], policy, RULES, episodes=6, seed=4)]
    assert ordered(both, TASKS) == ordered(alone, TASKS)
    assert [e.task for e in both] != sorted(e.task for e in both)  # they were played at once
    assert len({e.length for e in both}) > 3


def test_one_call_needs_the_history_and_gives_what_play_would(net: Transformer) -> None:
    policy, rng = policy_of(net, selection="greedy", kappa=1e6), np.random.default_rng(0)
    obs = rng.integers(256, size=(4, 3, 8, 8)).astype(np.uint8)
    actions, rewards = rng.integers(3, size=(4, 2)), rng.integers(-1, 2, size=(4, 2)) * 0.5
    got = policy(obs, task="toy:maze", actions=actions, rewards=rewards)
    padded = (np.pad(part, ((0, 0), (0, 1))) for part in (actions, np.sign(rewards) + 1))
    out = net(
        torch.tensor(obs), torch.ones(4).long(), *(torch.tensor(p).long() for p in padded),
        torch.full((4,), RETURNS - 1),
    )  # fmt: skip
    assert got.tolist() == out["policy"][:, -1].argmax(-1).tolist()
    single = policy(obs[:, -1:], task="toy:maze")
    assert len(single) == 4
    with pytest.raises(TaskError, match="2 actions and rewards between them, got 0"):
        policy(obs, task="toy:maze")
    with pytest.raises(TaskError, match="contexts of 3 steps, got 4"):
        policy(np.zeros((1, 4, 8, 8), np.uint8), task="toy:maze")
    with pytest.raises(TaskError, match="say which task"):
        policy(obs)
    with pytest.raises(TaskError, match="did you mean toy:chain"):
        policy(obs, task="toy:chian")


def test_rows_that_were_not_announced_are_refused(net: Transformer) -> None:
    policy = policy_of(net)
    policy.start(2)
    with pytest.raises(TaskError, match="remembers 2 rows, got 3"):
        policy.act(np.zeros((3, 3, 8, 8), np.uint8), np.zeros(3, int), np.zeros(3))


@pytest.mark.parametrize("keep", [-1, 3])
def test_impossible_memories_are_refused(net: Transformer, keep: int) -> None:
    with pytest.raises(ConfigError, match="keeps 0 to 2"):
        policy_of(net, keep=keep)
