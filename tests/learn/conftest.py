"""A decision problem small enough to solve exactly, and a network that is a table of it."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scaledq.core.batch import Batch
from scaledq.core.outputs import HeadSpec, Outputs

GAMMA = 0.5
ACTIONS = (2, 3)  # of the two tasks
NEXT = np.array([[[0, 1, -9], [0, 2, -9], [0, 0, -9]], [[1, 2, 0], [2, 2, 1], [0, 1, 2]]])
REWARD = np.array(
    [
        [[0.1, 0.0, -9], [0.0, 0.0, -9], [0.0, 1.0, -9]],
        [[0.0, 0.2, 0.1], [-0.5, 0.3, 0.0], [0.5, -1.0, 0.0]],
    ]
)
ENDS = np.zeros((2, 3, 3), dtype=bool)
ENDS[1, 2, 0] = True  # the last state's first action of the second task terminates


class Table(nn.Module):
    """One output per (task, state, action slot); the state is the only number of a frame."""

    def __init__(self, heads: tuple[HeadSpec, ...], *, slots: int = 3, features: int = 4):
        super().__init__()
        shapes = {h.name: ((slots, h.size) if h.per_action else (h.size,)) for h in heads}
        self.tables = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(2, 3, *shape)) for name, shape in shapes.items()}
        )
        self.features = nn.Parameter(torch.linspace(0.1, 1, 3 * features).view(3, features))
        self.register_buffer("actions", torch.tensor(ACTIONS))
        self.slots = slots

    def forward(self, obs: Tensor, task: Tensor) -> Outputs:
        state = obs[:, -1, 0].long()
        out = {name: table[task, state] for name, table in self.tables.items()}
        available = torch.arange(self.slots) < self.get_buffer("actions")[task, None]
        return out | {"features": self.features[state], "available": available}


@dataclass(frozen=True)
class World:
    """The problem, its transitions (each once, actions in the order of their numbers)."""

    batch: Batch
    optimal: np.ndarray
    """Q* [tasks, states, actions], NaN for actions that a task lacks."""

    def learned(self, q: Tensor) -> np.ndarray:
        """`q` [tasks, states, slots] with the slots of missing actions as NaN."""
        return np.where(np.isnan(self.optimal), np.nan, q.detach().numpy()[..., :3])


def optimal_values() -> np.ndarray:
    """Value iteration, in plain loops."""
    q = np.zeros((2, 3, 3))
    for _ in range(60):
        old = q.copy()
        for task, actions in enumerate(ACTIONS):
            for state in range(3):
                for action in range(actions):
                    ahead = max(old[task, NEXT[task, state, action], :actions])
                    stays = 0.0 if ENDS[task, state, action] else GAMMA
                    q[task, state, action] = REWARD[task, state, action] + stays * ahead
    q[0, :, 2] = np.nan
    return q


def transitions() -> Batch:
    index = [(t, s, a) for t, n in enumerate(ACTIONS) for s in range(3) for a in range(n)]
    task, state, action = (torch.tensor(column) for column in zip(*index, strict=True))
    at = tuple(column.numpy() for column in (task, state, action))
    reward = torch.tensor(REWARD[at], dtype=torch.float32)
    return Batch(
        frames=torch.stack([state, torch.tensor(NEXT[at])], 1)[:, :, None].to(torch.uint8),
        task=task,
        action=action,
        reward=reward,
        step_reward=reward,
        discount=torch.tensor(np.where(ENDS[at], 0.0, GAMMA), dtype=torch.float32),
        steps=torch.ones(len(task), dtype=torch.long),
        stack=1,
    )


@pytest.fixture(scope="session")
def world() -> World:
    return World(batch=transitions(), optimal=optimal_values())


@pytest.fixture(scope="session")
def table() -> type[Table]:
    return Table


@pytest.fixture(autouse=True)
def _one_thread_and_one_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
