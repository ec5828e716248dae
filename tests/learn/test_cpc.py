"""Contrastive predictive coding: its loss by hand, its negatives, and that it finds successors.

A bar of some shade walks three pixels a step around a ring: no two states look alike.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from scaledq.core.batch import Batch
from scaledq.core.errors import ConfigError
from scaledq.learn.cpc import CPC, info_nce
from scaledq.learn.learner import Learner
from scaledq.learn.optim import OptimConfig
from scaledq.nets.contrastive import Contrastive
from scaledq.nets.head import NeckConfig
from scaledq.nets.resnet import ResNet, ResNetConfig

SIDE = 16


def walks(count: int, *, seed: int) -> Batch:
    """Pairs of successive states of a ring; every fifth has no successor and shows another's."""
    rng = np.random.default_rng(seed)
    place, row = rng.integers(SIDE, size=(2, count))
    frames = np.zeros((count, 2, SIDE, SIDE), np.uint8)
    for t in range(2):
        frames[np.arange(count), t, :, (place + 3 * t) % SIDE] = 120
        frames[np.arange(count), t, row, :] += 100
    last = np.arange(count) % 5 == 4
    frames[last, 1] = 0
    task = torch.arange(count) % 2
    discount = torch.from_numpy(np.where(last, 0.0, 0.99)).float()
    return Batch(
        frames=torch.from_numpy(frames), task=task, action=task, reward=torch.zeros(count),
        step_reward=torch.zeros(count), discount=discount,
        steps=torch.ones(count, dtype=torch.long), stack=1,
    )  # fmt: skip


def network(seed: int = 0) -> Contrastive:
    torch.manual_seed(seed)
    body = ResNet(ResNetConfig(depth=8, width=8, stem="small"), (1, SIDE, SIDE))
    return Contrastive(body, NeckConfig(embeddings=4), width=64, layers=2)


def by_hand(
    scores: torch.Tensor, pair: list[bool], rival: torch.Tensor
) -> tuple[list[float], list[bool]]:
    losses, wins = [], []
    for i in range(len(pair)):
        if not pair[i]:
            continue
        others = [j for j in range(len(pair)) if pair[j] and (rival[i, j] or i == j)]
        exponentials = {j: math.exp(scores[i, j]) for j in others}
        losses.append(-math.log(exponentials[i] / sum(exponentials.values())))
        wins.append(max(others, key=lambda j: float(scores[i, j])) == i)
    return losses, wins


def test_the_loss_is_the_cross_entropy_among_the_successors() -> None:
    torch.manual_seed(1)
    for pair in ([True] * 6, [True, False, True, True, False, True]):
        scores, rival = torch.randn(6, 6), torch.rand(6, 6) < 0.6
        loss, correct = info_nce(scores, torch.tensor(pair), rival)
        losses, wins = by_hand(scores, pair, rival)
        assert loss.mean().item() == pytest.approx(np.mean(losses))
        assert correct.mean().item() == pytest.approx(np.mean(wins))
        assert all(x == 0 for x, found in zip(loss, pair, strict=True) if not found)


def test_equal_scores_cost_the_logarithm_of_their_number_and_clear_ones_nothing() -> None:
    every, rival = torch.ones(8, dtype=torch.bool), torch.ones(8, 8, dtype=torch.bool)
    loss, _ = info_nce(torch.zeros(8, 8), every, rival)
    torch.testing.assert_close(loss, torch.full((8,), math.log(8)))
    loss, correct = info_nce(100 * torch.eye(8), every, rival)
    assert loss.max() < 1e-6
    assert correct.mean() == 1
    loss, _ = info_nce(torch.zeros(8, 8), ~every, rival)
    assert loss.sum() == 0, "a batch without a successor teaches nothing"


def test_negatives_can_be_of_the_same_task_only() -> None:
    net, batch = network(), walks(10, seed=0)
    losses = {n: CPC(negatives=n)(net, net, batch)[0] for n in ("batch", "task")}
    assert losses["task"].mean() < losses["batch"].mean(), "fewer rivals"
    other = batch.frames.clone()
    other[1::2] = 255 - other[1::2]
    changed = replace(batch, frames=other)
    again = CPC(negatives="task")(net, net, changed)[0]
    torch.testing.assert_close(again[::2], losses["task"][::2])
    assert not torch.equal(again[1::2], losses["task"][1::2])


def test_it_finds_the_successor_in_a_batch_it_has_not_seen() -> None:
    net = network()
    learner = Learner(net, CPC(), OptimConfig(lr=2e-3, eps=1e-8), tasks=2)
    for step in range(120):
        learner.update(walks(40, seed=step))
    learner.check()
    with torch.no_grad():
        _, terms = CPC()(net, net, walks(40, seed=10_000))
    chance = 1 / 32
    assert terms["accuracy"].mean() > 15 * chance


def test_sizes_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"objective\.layers"):
        CPC(layers=0)
