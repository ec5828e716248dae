"""A training run: what it leaves, how it stops, and that stopping changes nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from scaledq.core.config import to_json
from scaledq.core.errors import ConfigError, DataError, RunError, TaskError
from scaledq.core.task import Task
from scaledq.learn.objective import BehaviourCloning
from scaledq.run.checkpoint import checkpoints
from scaledq.run.config import RunConfig
from scaledq.run.folder import METRICS, WEIGHTS, open_run
from scaledq.run.train import train

from .conftest import write_log

PROGRAM = """
import sys
from pathlib import Path
from scaledq.core.config import from_json
from scaledq.core.errors import ScaledQError
from scaledq.run.config import RunConfig
from scaledq.run.train import train
try:
    train(from_json(RunConfig, Path(sys.argv[1]).read_bytes()), sys.argv[2], resume=True)
except ScaledQError as error:
    print(error, file=sys.stderr)
    sys.exit(error.code)
"""


def start(cfg: RunConfig, out: Path) -> subprocess.Popen[bytes]:
    """Trains in a process of its own."""
    out.mkdir(exist_ok=True)
    (out / "cfg.json").write_bytes(to_json(cfg))
    command = [sys.executable, "-c", PROGRAM, str(out / "cfg.json"), str(out)]
    return subprocess.Popen(command, stderr=subprocess.PIPE)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / WEIGHTS)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_leaves_what_a_reader_looks_for(small_run: RunConfig, tmp_path: Path) -> None:
    run = train(small_run, tmp_path / "runs")
    left = {p.name for p in run.folder.iterdir()}
    assert {"run.json", "metrics.jsonl", "tensorboard", "checkpoints", WEIGHTS} <= left
    assert [row["step"] for row in run.metrics] == [5, 10, 15, 20, 25, 30]
    assert {"loss", "td", "cql_gap", "grad_norm", "loader_wait"} <= run.metrics[0].keys()
    assert [p.name for p in checkpoints(run.folder / "checkpoints")] == [
        "step-000000020",
        "step-000000030",
    ]
    again = open_run(run.folder)
    assert again.config == small_run
    assert [task.actions for task in again.tasks] == [2, 3]
    assert again.facts["parameters"] == sum(t.numel() for t in weights(run.folder).values())


def test_the_same_seed_gives_the_same_weights(small_run: RunConfig, tmp_path: Path) -> None:
    first, second = (train(small_run, tmp_path / name).folder for name in ("a", "b"))
    other = train(replace(small_run, seed=1), tmp_path / "a").folder
    assert same(weights(first), weights(second))
    assert not same(weights(first), weights(other))


def test_a_finished_run_is_not_trained_again(small_run: RunConfig, tmp_path: Path) -> None:
    run = train(small_run, tmp_path)
    before = (run.folder / WEIGHTS).stat().st_mtime_ns
    assert train(small_run, tmp_path).folder == run.folder
    assert (run.folder / WEIGHTS).stat().st_mtime_ns == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(
    small_run: RunConfig, tmp_path: Path, number: signal.Signals
) -> None:
    cfg = replace(small_run, steps=400, log_every=20, checkpoint_every=20)
    whole = train(cfg, tmp_path / "whole").folder
    out = tmp_path / "stopped"
    process = start(cfg, out)
    deadline = time.monotonic() + 60
    while not checkpoints(out / cfg.folder / "checkpoints"):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1].decode()
    if number == signal.SIGKILL:
        assert process.returncode == -number
    else:
        assert process.returncode == 128 + number
        assert "go on with --resume" in said
    assert not (out / cfg.folder / WEIGHTS).exists()
    with pytest.raises(RunError, match="--resume"):
        train(cfg, out)
    run = train(cfg, out, resume=True)
    assert same(weights(whole), weights(run.folder))
    steps = [row["step"] for row in run.metrics]
    assert steps == list(range(20, 401, 20))
    losses = [row["loss"] for row in run.metrics]
    assert losses == [row["loss"] for row in open_run(whole).metrics]


def test_moved_data_is_the_same_run_and_other_data_is_refused(
    small_run: RunConfig, store: Path, tmp_path: Path
) -> None:
    folder = train(replace(small_run, steps=10), tmp_path).folder
    (folder / WEIGHTS).unlink()
    moved = tmp_path / "moved"
    os.rename(store, moved)
    cfg = replace(small_run, steps=10, stores=(str(moved),))
    assert train(cfg, tmp_path, resume=True).folder == folder
    (folder / WEIGHTS).unlink()
    write_log(moved, open_run(folder).tasks[0], name="another")
    with pytest.raises(RunError, match="other data"):
        train(cfg, tmp_path, resume=True)


def test_a_folder_of_another_config_is_refused(small_run: RunConfig, tmp_path: Path) -> None:
    other = train(replace(small_run, objective=BehaviourCloning()), tmp_path)
    (other.folder / WEIGHTS).unlink()
    os.rename(other.folder, tmp_path / small_run.folder)
    with pytest.raises(RunError, match="another config"):
        train(small_run, tmp_path, resume=True)


def test_tasks_of_unequal_frames_are_refused(
    small_run: RunConfig, store: Path, tmp_path: Path
) -> None:
    write_log(store, Task(name="wide", actions=2, frame_shape=(7,)))
    with pytest.raises(TaskError, match="wide"):
        train(replace(small_run, tasks=("left", "wide")), tmp_path / "runs")
    with pytest.raises(DataError, match="did you mean left"):
        train(replace(small_run, tasks=("lefd",)), tmp_path / "runs")


@pytest.mark.parametrize(
    ("field", "value"), [("tasks", ()), ("tasks", ("a", "a")), ("batch_size", 0), ("steps", 0)]
)
def test_a_config_that_cannot_be_is_refused(
    small_run: RunConfig, field: str, value: object
) -> None:
    with pytest.raises(ConfigError, match=field):
        replace(small_run, **{field: value})


def test_a_damaged_run_file_is_named(small_run: RunConfig, tmp_path: Path) -> None:
    folder = train(replace(small_run, steps=5), tmp_path).folder
    content = json.loads((folder / "run.json").read_text())
    del content["config"]
    (folder / "run.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"run\.json is damaged"):
        open_run(folder)
    with pytest.raises(RunError, match="is not a run"):
        open_run(tmp_path)
    assert METRICS in {p.name for p in folder.iterdir()}
