"""Costs: parameters as built, operations multiplied out by hand, transitions as views cut them."""

from dataclasses import replace
from pathlib import Path

import pytest

from scaledq.core.task import Task
from scaledq.data.store import open_store
from scaledq.data.view import Episodes, First, Span, Uniform, View
from scaledq.learn.bc import BehaviourCloning
from scaledq.nets.head import NeckConfig
from scaledq.nets.mlp import MLPConfig
from scaledq.nets.transformer import TransformerConfig
from scaledq.run import assemble
from scaledq.run.config import Online, RunConfig
from scaledq.run.replay import Replay
from scaledq.study.cost import EMULATED, cost, speed, transitions
from scaledq.study.recipes import RECIPES
from scaledq.study.scales import PAPER, SMOKE

TASKS = (Task(name="a", actions=2, frame_shape=(6,)), Task(name="b", actions=3, frame_shape=(6,)))
VECTORS = RunConfig(
    tasks=("a", "b"),
    encoder=MLPConfig(widths=(10, 8)),
    neck=NeckConfig(embedding="none", width=16),
    objective=BehaviourCloning(),
    batch_size=4,
    steps=7,
)


def test_operations_are_those_of_the_products_forward_twice_backward_and_of_the_target() -> None:
    # Four frames of six numbers; a product of a row with a matrix [n, m] is 2 n m operations.
    forward = 2 * (24 * 10 + 10 * 8 + 8 * 16 + 16 * 3)
    assert cost(VECTORS, TASKS).operations == 3 * forward * 4 * 7
    valued = replace(VECTORS, objective=PAPER.run.objective)
    with_atoms = forward + 2 * 16 * 3 * 50
    assert cost(valued, TASKS).operations == 4 * with_atoms * 4 * 7


def test_play_costs_a_forward_pass_and_a_step_of_an_emulator_for_each_transition() -> None:
    """7 updates every 4 transitions, after 10 of each of two tasks."""
    offline = replace(VECTORS, objective=PAPER.run.objective)
    online = replace(offline, online=Online(replay=Replay(warmup=10)))
    learnt, both = cost(offline, TASKS), cost(online, TASKS)
    assert both.played == 2 * 10 + 4 * 7
    forward = learnt.operations / (4 * 4 * 7)
    assert both.operations == learnt.operations + forward * both.played
    assert both.hours(1e12) == pytest.approx(both.played / EMULATED / 3600, rel=1e-3)


def test_operations_grow_with_batch_and_steps_and_not_with_tasks_or_seeds() -> None:
    base = cost(VECTORS, TASKS).operations
    assert cost(replace(VECTORS, batch_size=8, steps=21), TASKS).operations == 6 * base
    assert cost(replace(VECTORS, seed=3), TASKS).operations == base
    assert cost(replace(VECTORS, tasks=("b",)), TASKS[1:]).operations == base


@pytest.mark.parametrize("name", RECIPES)
def test_parameters_are_those_of_the_network_that_is_built(name: str) -> None:
    cfg = RECIPES[name](SMOKE)
    tasks = tuple(Task(name=task, actions=6, frame_shape=(84, 84)) for task in cfg.tasks)
    built = sum(p.numel() for p in assemble.network(cfg, tasks).parameters())
    assert cost(cfg, tasks).parameters == built


@pytest.mark.parametrize("name", ["dt", "dt_large", "bc_transformer", "dt_on_cpc"])
def test_dropout_costs_nothing(name: str) -> None:
    cfg = RECIPES[name](PAPER)
    assert isinstance(cfg.encoder, TransformerConfig)
    tasks = (Task(name="a", actions=6, frame_shape=(84, 84)),)
    assert cfg.encoder.dropout > 0
    plain = replace(cfg, encoder=replace(cfg.encoder, dropout=0.0))
    assert cost(cfg, tasks) == cost(plain, tasks)


def test_hours_are_operations_over_speed() -> None:
    price = cost(VECTORS, TASKS)
    assert price.hours(price.operations / 3600) == pytest.approx(1.0)
    assert speed([]) > 1e6


@pytest.mark.parametrize(
    ("view", "share"),
    [
        (View(), 1.0),
        (View(rows=First(fraction=0.25)), 0.25),
        (View(rows=Uniform(fraction=0.1)), 0.1),
        (View(rows=Span(start=0.25, stop=0.75)), 0.5),
        (View(rows=Episodes(fraction=0.1)), None),
    ],
)
def test_transitions_are_the_share_that_a_view_leaves(
    view: View, share: float | None, smoke_store: Path
) -> None:
    stores = [open_store(smoke_store)]
    found = transitions(view, stores, "Pong")
    assert found == (None if share is None else round(share * 200))
    assert transitions(view, stores, "Qbert") is None
