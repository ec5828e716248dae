"""The same numbers through d3rlpy 2.8.1's own losses, computed once and frozen here.

Tables are sin(1.7 k + seed) over [state, action(, quantile)], k counting entries: seed 0.3 for the
online Q, 1.1 for the target's, 2.0 (times 2) for the behaviour's logits. They were given to
d3rlpy's DiscreteMeanQFunction and DiscreteQRQFunction as weights of a linear layer on one-hot
states, without bias, in float64 (it adds TD errors up in float32, hence the tolerance).
DiscreteCQLImpl (alpha 0.7) and DiscreteBCQImpl (flexibility 0.3, beta 0), gamma 0.9, then
answered compute_target and compute_loss.
"""

from math import prod

import pytest
import torch
from torch import Tensor

from scaledq.core.batch import Batch
from scaledq.core.outputs import Network, Outputs
from scaledq.learn.bcq import DiscreteBCQ
from scaledq.learn.objective import ScaledQL
from scaledq.learn.td import MSE, QuantileRegression

STATE, NEXT = torch.tensor([0, 1, 2, 1]), torch.tensor([1, 2, 0, 0])
REWARD = torch.tensor([0.5, -1.0, 3.0, 0.0], dtype=torch.float64)
BATCH = Batch(
    frames=torch.stack([STATE, NEXT], 1)[:, :, None],
    task=torch.zeros(4, dtype=torch.long),
    action=torch.tensor([2, 0, 1, 1]),
    reward=REWARD,
    step_reward=REWARD,
    discount=torch.tensor([0.9, 0.9, 0.0, 0.9], dtype=torch.float64),
    steps=torch.ones(4, dtype=torch.long),
    stack=1,
)


def sines(seed: float, *shape: int) -> Tensor:
    return torch.sin(1.7 * torch.arange(prod(shape), dtype=torch.float64) + seed).view(shape)


def network(seed: float, *, size: int) -> Network:
    q, behaviour = sines(seed, 3, 3, size), 2 * sines(2.0, 3, 3, 1)

    def answer(obs: Tensor, task: Tensor) -> Outputs:
        state = obs[:, 0, 0]
        available = torch.ones(len(state), 3, dtype=torch.bool)
        features = torch.zeros(len(state), 1, dtype=torch.float64)
        outputs = {"q": q[state], "behaviour": behaviour[state]}
        return outputs | {"available": available, "features": features}

    return answer


@pytest.mark.parametrize(
    ("td", "expected_td", "gap", "loss"),
    [
        (MSE(unitary=False, huber=1.0), 1.13025653362274, 1.66786105572077, 2.29775927262728),
        (QuantileRegression(quantiles=4), 2.06402230262756, 1.08617737908167, 2.82434646798473),
    ],
    ids=["mean", "quantile"],
)
def test_discrete_cql(td, expected_td: float, gap: float, loss: float) -> None:
    online, target = (network(seed, size=td.size) for seed in (0.3, 1.1))
    ours, terms = ScaledQL(td=td, alpha=0.7, double=True)(online, target, BATCH)
    assert terms["td"].mean().item() == pytest.approx(expected_td, rel=1e-6)
    assert terms["cql_gap"].mean().item() == pytest.approx(gap, rel=1e-6)
    assert ours.mean().item() == pytest.approx(loss, rel=1e-6)


def test_discrete_bcq() -> None:
    """Without the penalty: d3rlpy's is on log-probabilities, the publication's on logits."""
    objective = DiscreteBCQ(td=MSE(unitary=False, huber=1.0), penalty=0.0)
    online, target = (network(seed, size=1) for seed in (0.3, 1.1))
    ours, terms = objective(online, target, BATCH)
    every_state = torch.arange(3)[:, None, None]
    best = objective.preferences(online(every_state, torch.zeros(3).long())).argmax(-1)
    assert best.tolist() == [0, 1, 1]
    assert terms["td"].mean().item() == pytest.approx(1.07529330253601, rel=1e-6)
    assert ours.mean().item() == pytest.approx(2.35639863797152, rel=1e-6)
