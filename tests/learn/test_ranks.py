"""Two processes that share a batch take the step that one process takes with all of it."""

import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from scaledq.core.batch import Batch
from scaledq.core.outputs import Outputs
from scaledq.learn.learner import Learner
from scaledq.learn.objective import ScaledQL
from scaledq.learn.optim import OptimConfig
from scaledq.learn.td import MSE

OBJECTIVE = ScaledQL(td=MSE(), dr3=0.1, double=True)
RANKS = 2


class Small(nn.Module):
    """Every parameter takes part in every row, as a distributed wrapper wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.neck, self.head = nn.Linear(3, 8), nn.Linear(8, 4)

    def forward(self, obs: torch.Tensor, task: torch.Tensor) -> Outputs:
        features = self.neck(obs[:, 0]).relu()
        available = torch.arange(4) < torch.tensor([3, 4])[task][:, None]
        return {"features": features, "q": self.head(features)[..., None], "available": available}


def batch_of(step: int, *, poisoned: bool = False) -> Batch:
    rng = torch.Generator().manual_seed(step)
    reward = torch.randn(8, generator=rng)
    if poisoned:
        reward[0] = torch.nan  # in one rank's half only
    return Batch(
        frames=torch.randn(8, 2, 3, generator=rng),
        task=torch.randint(2, (8,), generator=rng),
        action=torch.randint(3, (8,), generator=rng),
        reward=reward,
        step_reward=reward,
        discount=torch.full((8,), 0.9),
        steps=torch.ones(8, dtype=torch.long),
        stack=1,
    )


def part(batch: Batch, rank: int) -> Batch:
    names = [f.name for f in fields(batch) if isinstance(getattr(batch, f.name), torch.Tensor)]
    return replace(batch, **{name: getattr(batch, name)[rank::RANKS] for name in names})


def train(learner: Learner, rank: int | None) -> dict[str, torch.Tensor]:
    scalars = {}
    for step in range(6):
        batch = batch_of(step, poisoned=step == 3)
        scalars = learner.update(batch if rank is None else part(batch, rank))
    state = {k: torch.as_tensor(v).clone() for k, v in learner.state_dict().items()}
    return state | scalars | {"diverged": learner.diverged}


def small() -> Small:
    torch.manual_seed(0)
    return Small()


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    net = small()
    optim = OptimConfig(lr=0.01, target_every=2, clip=1.0)
    learner = Learner(net, OBJECTIVE, optim, tasks=2, forward=DistributedDataParallel(net))
    torch.save(train(learner, rank), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    commands = [[sys.executable, __file__, str(rank), str(tmp_path)] for rank in range(RANKS)]
    processes = [subprocess.Popen(command) for command in commands]
    assert [process.wait(timeout=200) for process in processes] == [0, 0]
    optim = OptimConfig(lr=0.01, target_every=2, clip=1.0)
    alone = train(Learner(small(), OBJECTIVE, optim, tasks=2), None)
    for rank in range(RANKS):
        together = torch.load(tmp_path / f"{rank}.pt")
        assert together.keys() == alone.keys()
        for name in alone:
            torch.testing.assert_close(together[name], alone[name], rtol=1e-4, atol=1e-6)
    assert alone["diverged"].tolist() == [3, 1]


if __name__ == "__main__":
    work(int(sys.argv[1]), sys.argv[2])
