"""What evaluation shows while it plays, and which cores it leaves to the emulators."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from scaledq.core import progress
from scaledq.core.errors import ConfigError, TaskError
from scaledq.core.protocol import Protocol
from scaledq.nets.head import NeckConfig
from scaledq.nets.mlp import MLPConfig
from scaledq.play.score import ScoreRow, read_scores
from scaledq.play.toy import task
from scaledq.run import assemble
from scaledq.run.apart import SMALL, hastened
from scaledq.run.config import RunConfig
from scaledq.run.evaluate import evaluate, standing
from scaledq.run.folder import SCORES, WEIGHTS, Run, open_run, write_run


@pytest.fixture
def eight_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    yield
    torch.set_num_threads(before)


def row(task: str, score: float) -> ScoreRow:
    about = {"run": "r", "method": "m", "seed": 0, "episode": 0, "length": 1, "protocol": "p"}
    return ScoreRow(task=task, score=score, **about)  # pyright: ignore[reportArgumentType]


def test_every_task_stands_there_from_the_start_with_its_mean_so_far() -> None:
    rows = [row("Pong", -21.0), row("Breakout", 4.0), row("Pong", -18.5)]
    told = standing(rows, ("Breakout", "Pong", "Qbert"), 16)
    assert told == ["Breakout 1/16  4.0", "Pong 2/16  -19.8", "Qbert 0/16"]


def test_a_small_network_leaves_cores_to_the_emulators_and_gives_them_back(
    eight_threads: None,
) -> None:
    small, large = nn.Linear(10, 10), nn.Linear(1, SMALL // 2 + 1)
    heads = nn.ModuleDict({"heads": nn.Linear(1, SMALL)})  # each row asks one task's only
    for net, threads in ((small, 2), (large, 8), (heads, 2)):
        with hastened(net):
            assert torch.get_num_threads() == threads
        assert torch.get_num_threads() == 8
    with pytest.raises(KeyboardInterrupt), hastened(small):
        raise KeyboardInterrupt
    assert torch.get_num_threads() == 8


def untrained(folder: Path) -> Run:
    """A run of two toys that nobody has trained."""
    names = ("toy:chain", "toy:mirror")
    cfg = RunConfig(
        tasks=names,
        encoder=MLPConfig(widths=(8,)),
        neck=NeckConfig(embedding="none", width=8),
        protocol=Protocol(name="toy", epsilon=0.5),
    )
    run = Run(folder, cfg, tuple(task(name.removeprefix("toy:")) for name in names), {})
    save_file(assemble.network(cfg, run.tasks).state_dict(), folder / WEIGHTS)
    write_run(run)
    return open_run(folder)


def test_evaluation_tells_each_tasks_episodes_and_mean_score(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "FIRST", 0.0)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    run = untrained(tmp_path)
    rows = evaluate(run, episodes=2)
    told = capsys.readouterr().err
    assert "play scaled_ql: 4 of 4 (100%)" in told
    for name in run.config.tasks:
        scores = [r.score for r in rows if r.task == name]
        assert f"{name} 1/2" in told
        assert f"{name} 2/2  {sum(scores) / 2:,.1f}" in told
    assert sorted(read_scores(run.folder / SCORES), key=str) == sorted(rows, key=str)


def test_what_is_stopped_keeps_the_tasks_that_were_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = untrained(tmp_path)
    whole = evaluate(run, episodes=3)
    (run.folder / SCORES).unlink()
    first = [row for row in whole if row.task == "toy:chain"]

    def stopped(*_: object) -> Iterator[ScoreRow]:
        yield from [*first, whole[-1]] if whole[-1] not in first else first
        raise KeyboardInterrupt

    monkeypatch.setattr("scaledq.run.evaluate._play", stopped)
    with pytest.raises(KeyboardInterrupt):
        evaluate(run, episodes=3)
    assert read_scores(run.folder / SCORES) == first


def test_tasks_are_asked_for_once_and_seeds_are_not_negative(tmp_path: Path) -> None:
    run = untrained(tmp_path)
    with pytest.raises(TaskError, match="tasks: each once, got toy:chain, toy:chain"):
        evaluate(run, tasks=("toy:chain", "toy:chain"))
    with pytest.raises(ConfigError, match="seed: need 0 or more, got -1"):
        evaluate(run, seed=-1)
    with pytest.raises(ConfigError, match="seed: need 0 or more, got -3"):
        replace(run.config, seed=-3)
    assert not (run.folder / SCORES).exists()
