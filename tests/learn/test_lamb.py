"""LAMB against its algorithm in plain numbers."""

import numpy as np
import pytest
import torch
from torch import nn

from scaledq.learn.lamb import Lamb
from scaledq.learn.learner import Learner
from scaledq.learn.objective import BehaviourCloning
from scaledq.learn.optim import OptimConfig

BETAS, EPS = (0.9, 0.99), 1e-6
SHAPES = ((3, 4), (4,), ())


def parameters(start: float = 1.0) -> list[nn.Parameter]:
    rng = np.random.default_rng(0)
    return [nn.Parameter(torch.tensor(start * rng.normal(size=s), dtype=torch.float32))
            for s in SHAPES]  # fmt: skip


def by_the_book(weights: list[np.ndarray], gradients: list[list[np.ndarray]], *, lr: float,
                decay: float) -> None:  # fmt: skip
    """Algorithm 2, one layer and step at a time, in place."""
    for index, weight in enumerate(weights):
        mean, square = np.zeros_like(weight), np.zeros_like(weight)
        for t, step in enumerate(gradients, 1):
            mean = BETAS[0] * mean + (1 - BETAS[0]) * step[index]
            square = BETAS[1] * square + (1 - BETAS[1]) * step[index] ** 2
            ratio = (mean / (1 - BETAS[0] ** t)) / (np.sqrt(square / (1 - BETAS[1] ** t)) + EPS)
            move = ratio + decay * weight
            size, length = np.sqrt((weight**2).sum()), np.sqrt((move**2).sum())
            weight -= lr * (size / length if size > 0 and length > 0 else 1.0) * move


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("start", [1.0, 0.0])
def test_lamb_is_by_the_book(decay: float, start: float) -> None:
    rng, mine = np.random.default_rng(1), parameters(start)
    theirs = [p.detach().double().numpy().copy() for p in mine]
    optimizer = Lamb(mine, lr=0.01, betas=BETAS, eps=EPS, weight_decay=decay)
    gradients = [[np.asarray(rng.normal(size=s)) for s in SHAPES] for _ in range(8)]
    for step in gradients:
        for parameter, gradient in zip(mine, step, strict=True):
            parameter.grad = torch.tensor(gradient, dtype=torch.float32)
        optimizer.step()
    by_the_book(theirs, gradients, lr=0.01, decay=decay)
    for parameter, expected in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=2e-4, atol=1e-6)


def test_a_layers_first_step_is_as_long_as_its_weights_ask_for() -> None:
    mine = parameters()
    before = [p.detach().clone() for p in mine]
    for p in mine:
        p.grad = 1e3 * torch.ones_like(p)
    Lamb(mine, lr=0.01, betas=BETAS, eps=EPS, weight_decay=0.0).step()
    for old, new in zip(before, mine, strict=True):
        torch.testing.assert_close((new - old).norm(), 0.01 * old.norm(), rtol=1e-4, atol=0)


def test_a_skipped_step_leaves_everything_as_it_was() -> None:
    ours, same = parameters(), parameters()
    runs = [Lamb(p, lr=0.01, betas=BETAS, eps=EPS, weight_decay=0.1) for p in (ours, same)]
    for turn, found in enumerate((0.0, 1.0, 0.0)):
        for optimizer, params in zip(runs, (ours, same), strict=True):
            if found and params is same:
                continue
            for p in params:
                p.grad = torch.full_like(p, torch.nan if found else 1.0 + turn)
            optimizer.found_inf = torch.tensor(found)
            optimizer.step()
    for a, b in zip(ours, same, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_field_chooses_it_and_it_resumes_bit_for_bit(world, table) -> None:
    objective, optim = BehaviourCloning(), OptimConfig(rule="lamb", lr=0.1, eps=1e-6)

    def learner() -> Learner:
        torch.manual_seed(0)
        net = table(objective.heads)
        return Learner(net, objective, optim, tasks=2)

    whole, first, second = learner(), learner(), learner()
    assert isinstance(whole.optimizer, Lamb)
    for _ in range(6):
        whole.update(world.batch)
    for _ in range(3):
        first.update(world.batch)
    second.load_state_dict(first.state_dict())
    for _ in range(3):
        second.update(world.batch)
    for name, value in whole.state_dict().items():
        other = second.state_dict()[name]
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(other)), name
