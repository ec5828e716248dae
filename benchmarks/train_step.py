"""A training step of ours against the same network and loss in a bare PyTorch loop.

Bar: at least 0.95 of the bare loop's speed (same process, same batch).
"""

import copy

import torch
import torch.nn.functional as F

from scaledq.core.batch import Batch
from scaledq.core.task import Task
from scaledq.run import assemble
from scaledq.run.config import RunConfig
from scaledq.study.scales import QUICK_RUN
from timing import alternate, median, report

STEPS, REPEATS = 20, 9


def random_batch(cfg: RunConfig) -> Batch:
    """A batch of the run's shape with random content."""
    torch.manual_seed(0)
    size, window = cfg.batch_size, cfg.transitions.stack + cfg.transitions.n_step
    return Batch(
        frames=torch.randint(256, (size, window, 84, 84), dtype=torch.uint8),
        task=torch.randint(len(cfg.tasks), (size,)),
        action=torch.randint(3, (size,)),
        reward=torch.randn(size),
        step_reward=torch.randn(size),
        discount=torch.full((size,), 0.9),
        steps=torch.full((size,), cfg.transitions.n_step),
        stack=cfg.transitions.stack,
    )


class Bare:
    """C51 + CQL on the same network, written down as one would in a notebook."""

    def __init__(self, cfg: RunConfig, net: torch.nn.Module, batch: Batch):
        self.net, self.target, self.batch = net, copy.deepcopy(net).requires_grad_(False), batch
        self.optimizer = torch.optim.Adam(
            net.parameters(), lr=cfg.optim.lr, eps=cfg.optim.eps, fused=True
        )
        self.support = torch.linspace(-10, 10, 51)
        self.rows = torch.arange(len(batch))

    def step(self) -> None:
        batch, support, rows = self.batch, self.support, self.rows
        with torch.no_grad():
            out = self.target(batch.frames[:, -batch.stack :], batch.task)
            probs = out["q"].softmax(-1)
            q = (probs * support).sum(-1).masked_fill(~out["available"], -torch.inf)
            probs = probs[rows, q.argmax(-1)]
            place = (batch.reward[:, None] + batch.discount[:, None] * support).clamp(-10, 10)
            place = (place + 10) / 0.4
            low = place.floor().clamp(0, 49).long()
            high = place - low
            target = torch.zeros_like(probs)
            target.scatter_add_(1, low, probs * (1 - high))
            target.scatter_add_(1, low + 1, probs * high)
        out = self.net(batch.frames[:, : batch.stack], batch.task)
        logits = out["q"]
        td = -(target * F.log_softmax(logits[rows, batch.action], -1)).sum(-1)
        q = (logits.softmax(-1) * support).sum(-1)
        spread = q.masked_fill(~out["available"], -torch.inf).logsumexp(-1)
        loss = (td + 0.05 * (spread - q[rows, batch.action])).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def main() -> None:
    cfg = QUICK_RUN
    tasks = tuple(Task(name=name, actions=18) for name in cfg.tasks)
    batch = random_batch(cfg)
    learner = assemble.learner(cfg, tasks, device="cpu")
    bare = Bare(cfg, assemble.network(cfg, tasks), batch)
    ours, theirs = alternate(
        lambda: [learner.update(batch) for _ in range(STEPS)],
        lambda: [bare.step() for _ in range(STEPS)],
        repeats=REPEATS,
    )
    report(
        "train_step",
        transitions_per_s=round(STEPS * cfg.batch_size / median(ours)),
        bare_transitions_per_s=round(STEPS * cfg.batch_size / median(theirs)),
        ratio=round(median([b / a for a, b in zip(ours, theirs, strict=True)]), 3),
        batch_size=cfg.batch_size,
        threads=torch.get_num_threads(),
    )


if __name__ == "__main__":
    main()
