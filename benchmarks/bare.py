"""Training as one writes it in a notebook: the speed that a step of ours is measured against.

The losses share no code with the package; the network is the same.
"""

import copy
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scaledq.core.batch import Batch
from scaledq.learn.optim import OptimConfig

Loss = Callable[[nn.Module, nn.Module, Batch], Tensor]
ALPHA, LOW, HIGH, ATOMS = 0.05, -10.0, 10.0, 51


class Loop:
    """The same batch again and again; `step` is all there is."""

    def __init__(self, net: nn.Module, optim: OptimConfig, batch: Batch, loss: Loss):
        self.net, self.batch, self.loss = net, batch, loss
        self.target = copy.deepcopy(net).requires_grad_(False)
        self.optimizer = torch.optim.Adam(net.parameters(), lr=optim.lr, eps=optim.eps, fused=True)

    def step(self) -> None:
        loss = self.loss(self.net, self.target, self.batch)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def ahead(batch: Batch) -> Tensor:
    """Every transition of these batches is of full length."""
    return batch.frames[:, -batch.stack :]


def rows(batch: Batch) -> Tensor:
    return torch.arange(len(batch), device=batch.action.device)


def conservative(q: Tensor, out: dict[str, Tensor], batch: Batch) -> Tensor:
    spread = q.masked_fill(~out["available"], -torch.inf).logsumexp(-1)
    return ALPHA * (spread - q[rows(batch), batch.action])


def c51(net: nn.Module, target_net: nn.Module, batch: Batch) -> Tensor:
    support = torch.linspace(LOW, HIGH, ATOMS, device=batch.reward.device)
    with torch.no_grad():
        out = target_net(ahead(batch), batch.task)
        probs = out["q"].softmax(-1)
        q = (probs * support).sum(-1).masked_fill(~out["available"], -torch.inf)
        probs = probs[rows(batch), q.argmax(-1)]
        place = (batch.reward[:, None] + batch.discount[:, None] * support).clamp(LOW, HIGH)
        place = (place - LOW) / (support[1] - support[0])
        low = place.floor().clamp(0, ATOMS - 2).long()
        target = torch.zeros_like(probs)
        target.scatter_add_(1, low, probs * (1 - place + low))
        target.scatter_add_(1, low + 1, probs * (place - low))
    out = net(batch.obs, batch.task)
    td = -(target * F.log_softmax(out["q"][rows(batch), batch.action], -1)).sum(-1)
    q = (out["q"].softmax(-1) * support).sum(-1)
    return (td + conservative(q, out, batch)).mean()


def mse(net: nn.Module, target_net: nn.Module, batch: Batch) -> Tensor:
    with torch.no_grad():
        out = target_net(ahead(batch), batch.task)
        best = out["q"].squeeze(-1).masked_fill(~out["available"], -torch.inf).max(-1).values
        target = batch.reward + batch.discount * best
    out = net(batch.obs, batch.task)
    q = out["q"].squeeze(-1)
    td = (q[rows(batch), batch.action] - target) ** 2
    return (td + conservative(q, out, batch)).mean()


def hl_gauss(net: nn.Module, target_net: nn.Module, batch: Batch) -> Tensor:
    edges = torch.linspace(LOW, HIGH, ATOMS + 1, device=batch.reward.device)
    centres, sigma = (edges[1:] + edges[:-1]) / 2, 0.75 * (HIGH - LOW) / ATOMS
    with torch.no_grad():
        out = target_net(ahead(batch), batch.task)
        q = (out["q"].softmax(-1) * centres).sum(-1)
        best = q.masked_fill(~out["available"], -torch.inf).max(-1).values
        value = (batch.reward + batch.discount * best).clamp(LOW, HIGH)
        below = torch.erf((edges - value[:, None]) / (math.sqrt(2) * sigma))
        target = (below[:, 1:] - below[:, :-1]) / (below[:, -1:] - below[:, :1])
    out = net(batch.obs, batch.task)
    td = -(target * F.log_softmax(out["q"][rows(batch), batch.action], -1)).sum(-1)
    q = (out["q"].softmax(-1) * centres).sum(-1)
    return (td + conservative(q, out, batch)).mean()


def two_hot(net: nn.Module, target_net: nn.Module, batch: Batch) -> Tensor:
    support = torch.linspace(LOW, HIGH, ATOMS, device=batch.reward.device)
    with torch.no_grad():
        out = target_net(ahead(batch), batch.task)
        q = (out["q"].softmax(-1) * support).sum(-1)
        best = q.masked_fill(~out["available"], -torch.inf).max(-1).values
        value = (batch.reward + batch.discount * best).clamp(LOW, HIGH)
        place = (value - LOW) / (support[1] - support[0])
        low = place.floor().clamp(0, ATOMS - 2).long()
        target = torch.zeros(len(batch), ATOMS, device=value.device)
        target[rows(batch), low] = 1 - place + low
        target[rows(batch), low + 1] = place - low
    out = net(batch.obs, batch.task)
    td = -(target * F.log_softmax(out["q"][rows(batch), batch.action], -1)).sum(-1)
    q = (out["q"].softmax(-1) * support).sum(-1)
    return (td + conservative(q, out, batch)).mean()


def quantile(net: nn.Module, target_net: nn.Module, batch: Batch) -> Tensor:
    with torch.no_grad():
        out = target_net(ahead(batch), batch.task)
        q = out["q"].mean(-1).masked_fill(~out["available"], -torch.inf)
        best = out["q"][rows(batch), q.argmax(-1)]
        target = batch.reward[:, None] + batch.discount[:, None] * best
    out = net(batch.obs, batch.task)
    own = out["q"][rows(batch), batch.action]
    count = own.shape[-1]
    levels = (torch.arange(count, device=own.device) + 0.5) / count
    error = target[:, None, :] - own[:, :, None]
    huber = torch.where(error.abs() <= 1, 0.5 * error**2, error.abs() - 0.5)
    weight = (levels[:, None] - (error < 0).float()).abs()
    td = (weight * huber).mean(-1).sum(-1)
    return (td + conservative(out["q"].mean(-1), out, batch)).mean()


def bc(net: nn.Module, target_net: nn.Module, batch: Batch) -> Tensor:
    out = net(batch.obs, batch.task)
    logits = out["policy"].squeeze(-1).masked_fill(~out["available"], -torch.inf)
    return F.cross_entropy(logits, batch.action)


def bcq(net: nn.Module, target_net: nn.Module, batch: Batch) -> Tensor:
    """With the squared TD error."""
    with torch.no_grad():
        out = net(ahead(batch), batch.task)
        logits = out["behaviour"].squeeze(-1).masked_fill(~out["available"], -torch.inf)
        likely = logits.softmax(-1)
        likely = likely / likely.max(-1, keepdim=True).values >= 0.3
        q = out["q"].squeeze(-1).masked_fill(~likely, -torch.inf)
        later = target_net(ahead(batch), batch.task)["q"].squeeze(-1)
        target = batch.reward + batch.discount * later[rows(batch), q.argmax(-1)]
    out = net(batch.obs, batch.task)
    td = (out["q"].squeeze(-1)[rows(batch), batch.action] - target) ** 2
    logits = out["behaviour"].squeeze(-1)
    squares = (logits**2 * out["available"]).sum(-1) / out["available"].sum(-1)
    nll = F.cross_entropy(logits.masked_fill(~out["available"], -torch.inf), batch.action)
    return (td + 0.01 * squares).mean() + nll


def iql(net: nn.Module, target_net: nn.Module, batch: Batch) -> Tensor:
    with torch.no_grad():
        later = net(ahead(batch), batch.task)["value"].squeeze(-1)
        target = batch.reward + batch.discount * later
        judged = target_net(batch.obs, batch.task)["q"].squeeze(-1)[rows(batch), batch.action]
    out = net(batch.obs, batch.task)
    td = (out["q"].squeeze(-1)[rows(batch), batch.action] - target) ** 2
    advantage = judged - out["value"].squeeze(-1)
    value = torch.where(advantage < 0, 0.3, 0.7) * advantage**2
    weight = (3 * advantage.detach()).exp().clamp(max=100)
    logits = out["policy"].squeeze(-1).masked_fill(~out["available"], -torch.inf)
    nll = F.cross_entropy(logits, batch.action, reduction="none")
    return (td + value + weight * nll).mean()
