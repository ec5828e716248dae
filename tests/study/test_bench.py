"""`scaledq bench`: what it measures adds up, and what it predicts follows from it."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from scaledq.core.task import Task
from scaledq.learn.learner import Learner
from scaledq.learn.objective import ReturnRegression
from scaledq.learn.optim import OptimConfig
from scaledq.learn.td import MSE
from scaledq.run.compute import Compute
from scaledq.study.bench import STATE, Findings, Measured, measure, random_batch, saved
from scaledq.study.scales import PAPER, SMOKE_RUN

TASKS = tuple(Task(name=name, actions=18) for name in SMOKE_RUN.tasks)
NETWORK = Measured(
    depth=101,
    batch_size=4,
    step=0.5,
    parameters=1_000,
    operations=10.0,
    activations=7.0,
)


def test_prediction_is_the_slower_of_steps_and_batches() -> None:
    found = Findings("here", Compute(), (NETWORK,), reads=1e9, plays=1.0, bare_plays=2.0)
    cfg = replace(PAPER.run, steps=3_600, batch_size=8)
    assert found.hours(NETWORK, cfg) == pytest.approx(1.0)  # steps of a second
    assert replace(found, reads=4.0).hours(NETWORK, cfg) == pytest.approx(2.0)  # batches of two
    assert NETWORK.memory(8) == STATE * 1_000 + 7.0 * 8


def test_a_network_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measure(SMOKE_RUN, device="cpu", budget=0.01)
    assert found.step > 0
    assert found.batch_size == SMOKE_RUN.batch_size
    # Forward, backward and the target's forward pass: four times one forward pass.
    assert found.operations > 4 * 2 * 21 * 21 * 12 * 4 * 64
    # At least the stem's output waits for the backward pass.
    assert found.activations > 4 * 12 * 21 * 21


def test_what_is_kept_for_the_backward_pass_is_counted_once() -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, obs: torch.Tensor, task: torch.Tensor) -> dict[str, torch.Tensor]:
            x = obs[:, 0].float().flatten(1)[:, :3].clone() * self.weight
            hidden = x.exp()  # keeps its answer, [B 3] of float32
            return {
                "features": hidden,
                "q": hidden.exp()[..., None],
                "available": task[:, None] < 9,
            }

    learner = Learner(Net(), ReturnRegression(td=MSE(unitary=False)), OptimConfig(), tasks=2)
    batch = random_batch(SMOKE_RUN, TASKS)
    block = len(batch) * 3 * 4
    # The product's input and both exponentials; what the loss adds is [B] or [B 3].
    assert 3 * block <= saved(learner, batch) <= 8 * block


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--budget", "0"), "bench needs at least a second"),
        (("--budget", "nan"), "bench needs at least a second for each thing, and an end, got nan"),
        (("--budget", "inf"), "bench needs at least a second for each thing, and an end, got inf"),
        (("--budget", "1e9", "--store", "nowhere"), "no store at nowhere"),
        (("--budget", "1e9", "--task", "Pongg"), "unknown game 'Pongg'; did you mean Pong"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_a_mistake_is_one_line_before_anything_is_measured(
    words: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    """A budget of years would not end."""
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "scaledq", "bench", *words]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=env, cwd=tmp_path, timeout=100
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"scaledq: error: {says}")
    assert done.stderr.count("\n") == 1
