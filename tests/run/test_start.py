"""Warm starts: what is taken over is bit-equal, what is new is new, what is frozen stays."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from scaledq.core.errors import ConfigError, RunError
from scaledq.core.protocol import QUICK
from scaledq.core.task import Task
from scaledq.learn.objective import BehaviourCloning
from scaledq.nets.mlp import MLPConfig
from scaledq.play.policy import NetPolicy
from scaledq.run import assemble
from scaledq.run.checkpoint import newest
from scaledq.run.config import RunConfig, Start
from scaledq.run.folder import WEIGHTS, Run, write_run
from scaledq.run.start import identified, kept_tasks, take_over
from scaledq.run.train import train

from .conftest import TASKS, write_log

LEFT, RIGHT = TASKS
UP = Task(name="up", actions=4, frame_shape=(6,))


@pytest.fixture
def source(small_run: RunConfig, tmp_path: Path) -> Run:
    """A generalist of two tasks."""
    return train(small_run, tmp_path / "runs")


def starting(cfg: RunConfig, source: Run, **fields: object) -> RunConfig:
    """`cfg` with a start from `source`, of a seed of its own."""
    start = Start(run=str(source.folder), **fields)  # pyright: ignore[reportArgumentType]
    return identified(replace(cfg, start=start, seed=5))


def begun(cfg: RunConfig) -> torch.nn.Module:
    """The network at step 0."""
    tasks = (*assemble.loader(cfg).tasks, *kept_tasks(cfg))
    net = assemble.network(cfg, tasks)
    take_over(net, cfg, tasks, data="")
    return net


def test_an_encoder_is_taken_over_and_the_rest_is_made_from_the_seed(
    small_run: RunConfig, source: Run
) -> None:
    cfg = starting(small_run, source)
    theirs, mine = load_file(source.folder / WEIGHTS), begun(cfg).state_dict()
    fresh = assemble.network(cfg, source.tasks).state_dict()
    encoder = [name for name in mine if name.startswith("encoder.")]
    assert encoder
    for name, value in mine.items():
        assert torch.equal(value, (theirs if name in encoder else fresh)[name]), name
        assert not torch.equal(value, (fresh if name in encoder else theirs)[name]), name


def test_heads_go_by_the_tasks_names(small_run: RunConfig, store: Path, source: Run) -> None:
    """The new run has them in another order, and a task of more actions before them."""
    write_log(store, UP)
    cfg = replace(small_run, tasks=("up", "right"))
    cfg = starting(cfg, source, parts="all", keep=("left",))
    theirs, mine = load_file(source.folder / WEIGHTS), begun(cfg).state_dict()
    fresh = assemble.network(cfg, (UP, RIGHT, LEFT)).state_dict()
    name, size = "heads.q.weight", small_run.objective.heads[0].size
    for task, place in (("left", 2), ("right", 1)):
        old = theirs[name][[t.name for t in source.tasks].index(task)]
        assert torch.equal(mine[name][place, : 3 * size], old)
    assert torch.equal(mine[name][0], fresh[name][0])
    assert torch.equal(mine["trunk.layers.0.weight"], theirs["trunk.layers.0.weight"])


def test_a_task_can_join_a_frozen_body_without_a_change_in_how_the_others_are_played(
    small_run: RunConfig, store: Path, source: Run, tmp_path: Path
) -> None:
    write_log(store, UP)
    cfg = starting(
        replace(small_run, tasks=("up",)), source, parts="all", keep=("right", "left"), frozen=True
    )
    run = train(cfg, tmp_path / "runs")
    assert [task.name for task in run.tasks] == ["up", "right", "left"]
    before, after = source.policy(), run.policy()
    assert isinstance(before, NetPolicy)
    assert isinstance(after, NetPolicy)
    obs = np.random.default_rng(0).integers(256, size=(50, 2, 6), dtype=np.uint8)
    for task, count in (("left", 2), ("right", 3)):
        old = before.values(obs, np.full(50, before.tasks.index(task)))
        new = after.values(obs, np.full(50, after.tasks.index(task)))
        assert np.array_equal(old[:, :count], new[:, :count])
        assert np.isneginf(new[:, count:]).all()
    fresh = assemble.network(cfg, run.tasks).state_dict()["heads.q.weight"][0]
    assert not torch.equal(run.network.state_dict()["heads.q.weight"][0], fresh)


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_weights_stay_and_get_no_optimiser_state(
    small_run: RunConfig, source: Run, tmp_path: Path, frozen: bool
) -> None:
    cfg = starting(small_run, source, frozen=frozen)
    folder = train(cfg, tmp_path / "runs").folder
    theirs, mine = load_file(source.folder / WEIGHTS), load_file(folder / WEIGHTS)
    for name, value in mine.items():
        stays = torch.equal(value, theirs[name])
        assert stays == (frozen and name.startswith("encoder.")), name
    state = newest(folder / "checkpoints")
    assert state is not None
    moments = [name for name in state.tensors if name.endswith("exp_avg")]
    encoder = sum(name.startswith("encoder.") for name in mine)
    assert len(moments) == len(mine) - (encoder if frozen else 0)


def test_a_thawed_encoder_rests_first_and_then_learns(
    small_run: RunConfig, source: Run, tmp_path: Path
) -> None:
    """It has moments of as many updates as it learnt in, and a stop changes nothing."""
    cfg = starting(small_run, source, frozen=True, thaw=20)
    folder = train(replace(cfg, steps=20), tmp_path / "short").folder
    theirs = load_file(source.folder / WEIGHTS)
    rested = load_file(folder / WEIGHTS)
    whole = train(cfg, tmp_path / "a").folder
    thawed = load_file(whole / WEIGHTS)
    for name in theirs:
        taken = name.startswith("encoder.")
        assert torch.equal(rested[name], theirs[name]) == taken, name
        assert not torch.equal(thawed[name], rested[name]), name
    state = newest(whole / "checkpoints")
    assert state is not None
    counts = {int(v) for k, v in state.tensors.items() if k.endswith(".step")}
    assert counts == {10, 30}
    stopped = train(cfg, tmp_path / "b").folder
    (stopped / WEIGHTS).unlink()
    for file in (stopped / "checkpoints" / "step-000000030").iterdir():
        file.unlink()
    (stopped / "checkpoints" / "step-000000030").rmdir()
    train(cfg, tmp_path / "b", resume=True)
    again = load_file(stopped / WEIGHTS)
    assert all(torch.equal(again[name], thawed[name]) for name in thawed)


def test_a_warm_started_run_goes_on_as_if_it_had_not_been_stopped(
    small_run: RunConfig, source: Run, tmp_path: Path
) -> None:
    cfg = starting(small_run, source, frozen=True)
    whole = load_file(train(cfg, tmp_path / "a").folder / WEIGHTS)
    folder = train(cfg, tmp_path / "b").folder
    (folder / WEIGHTS).unlink()
    for place in (folder / "checkpoints").glob("step-000000030"):
        for file in place.iterdir():
            file.unlink()
        place.rmdir()
    train(cfg, tmp_path / "b", resume=True)
    again = load_file(folder / WEIGHTS)
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_the_source_is_named_by_its_weights_and_not_by_its_place(
    small_run: RunConfig, source: Run, tmp_path: Path
) -> None:
    first = starting(small_run, source)
    moved = source.folder.rename(tmp_path / "elsewhere")
    second = identified(replace(first, start=replace(first.start, run=str(moved))))
    assert (first.folder, first.start.run) != (second.folder, second.start.run)
    assert first.folder == second.folder != small_run.folder
    other = train(replace(small_run, seed=1), tmp_path / "runs")
    assert starting(small_run, other).folder != first.folder
    with pytest.raises(RunError, match="checksum"):
        identified(replace(first, start=replace(first.start, run=str(other.folder))))


def test_what_differs_from_the_source_is_said(
    small_run: RunConfig, store: Path, source: Run, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    cfg = starting(replace(small_run, protocol=QUICK), source)
    run = train(cfg, tmp_path / "runs")
    assert run.facts["start"]["differences"] == ["protocol 'scaled-ql', here 'quick'"]
    write_log(store, LEFT, name="more")
    cfg = replace(cfg, transitions=replace(cfg.transitions, n_step=1))
    train(cfg, tmp_path / "runs")
    said = capsys.readouterr().err
    assert "other logs; protocol 'scaled-ql', here 'quick'; n_step 3, here 1" in said


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"encoder": MLPConfig(widths=(8,))}, "another encoder"),
        ({"transitions.stack": 3}, "--transitions.stack 2"),
        ({"start.of": "mae"}, "is a run of 'scaled_ql'"),
        ({"start.run": ""}, "--start.run"),
        ({"start.run": "nowhere"}, "is not a run"),
        ({"start.parts": "all", "objective": BehaviourCloning()}, "answer another objective"),
        ({"start.parts": "body", "neck.width": 8}, "does not fit"),
        (
            {"tasks": ("left",), "start.parts": "all", "start.keep": ("rihgt",)},
            "did you mean right",
        ),
    ],
)
def test_a_source_that_does_not_fit_is_refused(
    small_run: RunConfig, source: Run, tmp_path: Path, change: dict[str, object], says: str
) -> None:
    cfg = starting(small_run, source)
    nested: dict[str, dict[str, object]] = {}
    for path, value in change.items():
        *where, field = path.split(".")
        nested.setdefault(where[0] if where else "", {})[field] = value
    plain = nested.pop("", {})
    parts = {name: replace(getattr(cfg, name), **fields) for name, fields in nested.items()}
    with pytest.raises((RunError, ConfigError), match=says):
        train(replace(cfg, **plain, **parts), tmp_path / "new")  # pyright: ignore[reportArgumentType]
    assert not (tmp_path / "new").exists()


def test_an_unfinished_or_damaged_source_is_refused(small_run: RunConfig, source: Run) -> None:
    cfg = starting(small_run, source)
    weights = source.folder / WEIGHTS
    data = weights.read_bytes()
    weights.write_bytes(data[:100])
    with pytest.raises(RunError, match="damaged"):
        begun(identified(replace(cfg, start=replace(cfg.start, weights=""))))
    weights.unlink()
    with pytest.raises(RunError, match="were not kept"):
        begun(identified(cfg))
    write_run(replace(source, facts={}))
    with pytest.raises(RunError, match="not finished"):
        identified(cfg)
    with pytest.raises(ConfigError, match="parts 'all'"):
        Start(run="x", keep=("left",))
