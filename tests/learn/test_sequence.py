"""The decision transformer's losses by hand, and what they do not depend on."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from scaledq.core.batch import Windows
from scaledq.core.errors import ConfigError
from scaledq.core.outputs import Outputs
from scaledq.learn.learner import Learner
from scaledq.learn.optim import OptimConfig
from scaledq.learn.sequence import (
    DecisionTransformer,
    SequenceCloning,
    SequenceObjective,
    return_class,
)

OBJECTIVES: list[SequenceObjective] = [DecisionTransformer(low=-2, high=4), SequenceCloning()]
ROWS, STEPS, ACTIONS, RETURNS = 6, 3, 4, 6


def windows() -> Windows:
    torch.manual_seed(0)
    steps = torch.tensor([1, 2, 3, 3, 2, 1])
    real = torch.arange(STEPS) < steps[:, None]
    return Windows(
        frames=torch.randint(256, (ROWS, STEPS, 2, 2), dtype=torch.uint8),
        task=torch.tensor([0, 1, 0, 1, 1, 0]),
        action=torch.randint(2, (ROWS, STEPS)) * real,
        reward=torch.tensor([-0.3, 0.0, 1.0])[torch.randint(3, (ROWS, STEPS))] * real,
        return_to_go=torch.tensor([-9.0, -2.4, 0.4, 1.6, 3.0, 50.0]),
        steps=steps,
        noise=5,
    )


def answers(objective: SequenceObjective) -> Outputs:
    torch.manual_seed(1)
    out = {
        "policy": torch.randn(ROWS, STEPS, ACTIONS),
        "reward": torch.randn(ROWS, STEPS, 3),
        "available": torch.tensor([[True, True, False, False], [True] * 4])[windows().task],
    }
    return out | ({"return": torch.randn(ROWS, RETURNS)} if objective.returns else {})


def lost(objective: SequenceObjective, given: Windows) -> tuple[Tensor, dict[str, Tensor]]:
    asked: list[tuple] = []

    def net(*inputs: object, noise: int) -> Outputs:
        asked.append((*inputs, noise))
        return answers(objective)

    loss = objective(net, net, given)
    assert len(asked) == 1
    assert len(asked[0]) == (6 if objective.returns else 5)
    assert asked[0][-1] == given.noise
    assert torch.equal(asked[0][3], given.reward.sign().long() + 1)
    return loss


def surprise(logits: list[float], chosen: int, allowed: int) -> float:
    """-log of the chosen one's share among the first `allowed`."""
    weights = [math.exp(x) for x in logits[:allowed]]
    return -math.log(weights[chosen] / sum(weights))


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.kind)
def test_the_loss_is_the_sum_of_cross_entropies(objective: SequenceObjective) -> None:
    batch, out = windows(), answers(objective)
    loss, terms = lost(objective, batch)
    classes = [0, 0, 2, 4, 5, 5]  # of -9, -2.4, 0.4, 1.6, 3 and 50, from -2 to 3
    for row in range(ROWS):
        real, parts = int(batch.steps[row]), {"nll": 0.0, "reward_nll": 0.0}
        for step in range(real):
            actions = 2 if batch.task[row] == 0 else 4
            chosen = int(batch.action[row, step])
            parts["nll"] += surprise(out["policy"][row, step].tolist(), chosen, actions) / real
            paid = {-1: 0, 0: 1, 1: 2}[int(batch.reward[row, step].sign())]
            parts["reward_nll"] += surprise(out["reward"][row, step].tolist(), paid, 3) / real
        if objective.returns:
            parts["return_nll"] = surprise(out["return"][row].tolist(), classes[row], RETURNS)
        assert float(loss[row]) == pytest.approx(sum(parts.values()), rel=1e-5)
        assert {k: float(v[row]) for k, v in terms.items()} == pytest.approx(parts, rel=1e-5)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.kind)
def test_padding_loses_nothing(objective: SequenceObjective) -> None:
    batch = windows()
    before = lost(objective, batch)[0]
    action = torch.where(batch.real, batch.action, 1)
    reward = torch.where(batch.real, batch.reward, 1.0)
    other = replace(batch, action=action, reward=reward)
    after = objective(lambda *inputs, noise: answers(objective), answers, other)[0]
    torch.testing.assert_close(before, after)


def test_a_sure_and_right_model_loses_nothing_and_an_ignorant_one_the_logarithm() -> None:
    objective, batch = DecisionTransformer(low=-2, high=4), windows()
    right = {
        "policy": 1e4 * torch.nn.functional.one_hot(batch.action, ACTIONS).float(),
        "reward": 1e4 * torch.nn.functional.one_hot(batch.reward.sign().long() + 1, 3).float(),
        "return": 1e4 * torch.nn.functional.one_hot(objective.classes(batch), RETURNS).float(),
        "available": answers(objective)["available"],
    }
    assert objective(lambda *_, noise: right, answers, batch)[0].abs().max() < 1e-6
    blank = {k: torch.zeros_like(v) if k != "available" else v for k, v in right.items()}
    loss = objective(lambda *_, noise: blank, answers, batch)[0]
    least = math.log(3) + math.log(RETURNS)
    expected = [least + math.log(2 if task == 0 else 4) for task in batch.task.tolist()]
    torch.testing.assert_close(loss, torch.tensor(expected))


@given(st.integers(-60, 160), st.sampled_from([0.2, 0.5, 1.0]), st.floats(-0.45, 0.45))
def test_a_return_belongs_to_the_nearest_class(number: int, width: float, off: float) -> None:
    value = torch.tensor([(number + off) * width])
    found = int(return_class(value, low=-20, high=100, width=width)) - 20
    assert found == min(max(number, -20), 99)


@pytest.mark.parametrize(
    ("field", "value"), [("high", -19), ("return_width", 0.0), ("kappa", -1.0)]
)
def test_impossible_returns_are_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=r"return|kappa"):
        replace(DecisionTransformer(), **{field: value})


class Words(torch.nn.Module):
    """A network that answers the same everywhere, from weights of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = torch.nn.Parameter(torch.zeros(2, ACTIONS))
        self.reward = torch.nn.Parameter(torch.zeros(3))
        self.hope = torch.nn.Parameter(torch.zeros(2, RETURNS))

    def forward(self, frames: Tensor, task: Tensor, *rest: Tensor, noise: int) -> Outputs:
        return {
            "policy": self.policy[task][:, None].expand(-1, STEPS, -1),
            "reward": self.reward.expand(ROWS, STEPS, -1),
            "return": self.hope[task],
            "available": answers(OBJECTIVES[0])["available"],
        }


def test_the_learner_finds_the_frequencies() -> None:
    objective, net = DecisionTransformer(low=-2, high=4), Words()
    learner = Learner(net, objective, OptimConfig(lr=0.05, eps=1e-8), tasks=2)
    first = float(learner.update(windows())["loss"])
    for _ in range(299):
        learner.update(windows())
    last = learner.update(windows())
    assert float(last["loss"]) < first
    assert set(last) == {"loss", "grad_norm", "nll", "reward_nll", "return_nll"}
    batch = windows()
    for task in range(2):
        rows = batch.task == task
        weight = (batch.real / batch.steps[:, None])[rows]
        shares = torch.zeros(ACTIONS).index_add(
            0, batch.action[rows].flatten(), weight.flatten().float()
        )
        probs = net.policy[task, : 2 if task == 0 else ACTIONS].softmax(-1)
        shares = (shares / shares.sum())[: len(probs)]
        torch.testing.assert_close(probs, shares, atol=0.02, rtol=0)
