"""Any gymnasium environment is a task: recorded, learnt, played, and learnt on while it is played.

Vectors of floats with unequal numbers of actions (poles), and pictures in colour (MiniGrid).
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from scaledq.core.errors import RunError, TaskError
from scaledq.core.protocol import Protocol
from scaledq.data.loader import Transitions
from scaledq.data.store import open_store
from scaledq.learn.c51 import C51
from scaledq.learn.objective import ScaledQL
from scaledq.learn.optim import OptimConfig
from scaledq.nets.head import NeckConfig
from scaledq.nets.mlp import MLPConfig
from scaledq.nets.resnet import ResNetConfig
from scaledq.run.collect import CollectConfig, Random, collect
from scaledq.run.config import RunConfig
from scaledq.run.evaluate import evaluate
from scaledq.run.finetune import FineTuning, finetune, finetuned
from scaledq.run.folder import METRICS, WEIGHTS, Run
from scaledq.run.train import train

POLE, IDLE, SHORT = "gym:CartPole-v1", "gym:own_poles:Idle-v0", "gym:own_poles:Short-v0"
GRID = "gym:MiniGrid-{}-v0+RGBImgPartialObsWrapper"
RULES = Protocol(name="own", epsilon=0.0, step_cap=100)
OWN_POLES = '''
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv


class Idle(CartPoleEnv):
    """May also do nothing, which is action 0: the force is as after the last push."""

    def __init__(self, **given):
        super().__init__(**given)
        self.action_space = gymnasium.spaces.Discrete(3)
        self.push = 0

    def step(self, action):
        self.push = self.push if action == 0 else action - 1
        return super().step(self.push)


class Short(CartPoleEnv):
    def __init__(self, **given):
        super().__init__(**given)
        self.length = 0.3


gymnasium.register("Idle-v0", Idle, max_episode_steps=200)
gymnasium.register("Short-v0", Short, max_episode_steps=200)
'''


@pytest.fixture(scope="module")
def poles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A run on random play of two tasks: one of gymnasium's own, one of a module of the user's."""
    place = tmp_path_factory.mktemp("poles")
    (place / "own_poles.py").write_text(OWN_POLES)
    sys.path.insert(0, str(place))
    tasks = (POLE, IDLE)
    recording = CollectConfig(tasks=tasks, steps=2_000, behaviour=Random(), slots=2, protocol=RULES)
    collect(recording, place / "store")
    cfg = RunConfig(
        tasks=tasks,
        stores=(str(place / "store"),),
        objective=ScaledQL(td=C51(v_min=0.0, v_max=20.0)),
        encoder=MLPConfig(widths=(64,)),
        neck=NeckConfig(embedding="none", width=64, feature_scale=8.0),
        optim=OptimConfig(lr=3e-3, eps=1e-5, target_every=25),
        transitions=Transitions(stack=1, gamma=0.95),
        batch_size=64,
        steps=400,
        protocol=RULES,
    )
    yield train(cfg, place / "runs")
    sys.path.remove(str(place))


def test_one_policy_plays_vectors_with_unequal_numbers_of_actions(poles: Run) -> None:
    assert [(t.actions, t.frame_shape, t.frame_dtype) for t in poles.tasks] == [
        (2, (4,), "float32"),
        (3, (4,), "float32"),
    ]
    rows = evaluate(poles, episodes=8)
    recorded = open_store(poles.config.stores[0])
    for task in (POLE, IDLE):
        logs = recorded[task]
        ends = sum(int((log.terminated | log.truncated).sum()) for log in logs)
        chance = sum(float(np.sum(log.reward)) for log in logs) / ends
        played = np.mean([row.score for row in rows if row.task == task])
        assert played > 1.5 * chance, f"{task}: {played} against {chance} at random"
    last = poles.policy()(np.zeros((1, 1, 4), np.float32), task=POLE)
    assert last[0] in (0, 1)


def test_a_task_without_logs_is_learnt_on_by_playing_it(poles: Run, tmp_path: Path) -> None:
    asked = FineTuning(task=SHORT, frames=1_000, keep=(POLE,))
    run = finetune(finetuned(poles, asked), tmp_path)
    logs = open_store(run.folder / "store")[SHORT]
    assert sum(log.manifest.counts.transitions for log in logs) == 1_000, "a frame is a step here"
    assert run.config.steps == (1_000 - 100) // 4
    before, after = (load_file(r.folder / WEIGHTS) for r in (poles, run))
    name = next(name for name in before if name.startswith("encoder.") and "weight" in name)
    assert before[name].shape == after[name].shape
    assert not before[name].equal(after[name])
    assert {row.task for row in evaluate(run, episodes=2)} == {SHORT, POLE}
    assert (run.folder / METRICS).exists()


def test_pictures_in_colour_are_learnt_and_learnt_on(tmp_path: Path) -> None:
    tasks = tuple(map(GRID.format, ("Empty-5x5", "LavaGapS5")))
    rules = replace(RULES, step_cap=20)
    recording = CollectConfig(tasks=tasks, steps=60, behaviour=Random(), slots=2, protocol=rules)
    collect(recording, tmp_path / "store")
    cfg = RunConfig(
        tasks=tasks,
        stores=(str(tmp_path / "store"),),
        encoder=ResNetConfig(depth=8, width=8),
        neck=NeckConfig(width=32),
        transitions=Transitions(stack=2),
        batch_size=8,
        steps=2,
        protocol=rules,
    )
    run = train(cfg, tmp_path / "runs")
    assert run.tasks[0].frame_shape == (56, 56, 3)
    assert len(evaluate(run, episodes=1)) == 2
    asked = FineTuning(task=GRID.format("Empty-6x6"), frames=60)
    tuned = finetune(finetuned(run, asked), tmp_path / "tuned")
    assert len(evaluate(tuned, episodes=1)) == 1


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("gym:Acrobot-v1", r"float32 \[4\]"),
        ("gym:FrozenLake-v1", r"FlattenObservation has"),
        ("gym:Pendulum-v1", "need discrete actions"),
        ("gym:own_polse:Idle-v0", "own_polse"),
        (POLE, "is in .* already"),
    ],
)
def test_what_cannot_be_learnt_on_is_refused_and_leaves_nothing(
    poles: Run, tmp_path: Path, task: str, says: str
) -> None:
    with pytest.raises((RunError, TaskError), match=says):
        finetune(finetuned(poles, FineTuning(task=task, frames=1_000)), tmp_path)
    assert not list(tmp_path.iterdir())
