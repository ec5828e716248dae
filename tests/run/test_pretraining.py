"""Runs that train an encoder alone: they resume, hand it on, and say why they cannot play."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from scaledq.core.errors import ConfigError, RunError
from scaledq.core.seeds import stream
from scaledq.core.task import Task
from scaledq.data.writer import LogWriter
from scaledq.learn.cpc import CPC
from scaledq.learn.mae import MAE
from scaledq.learn.objective import Pretraining
from scaledq.nets.mlp import MLPConfig
from scaledq.nets.vit import ViTConfig
from scaledq.run.config import RunConfig, Start
from scaledq.run.evaluate import evaluate
from scaledq.run.folder import WEIGHTS
from scaledq.run.train import train

SMALL_MAE = MAE(decoder_width=8, decoder_depth=1, decoder_heads=2)


@pytest.fixture
def pictures(tmp_path: Path, small_run: RunConfig) -> RunConfig:
    """A run of 20 steps on two tasks of 8x8 pictures, with a ViT."""
    store = tmp_path / "pictures"
    for task in (Task(name=name, actions=2, frame_shape=(8, 8)) for name in small_run.tasks):
        rng = stream(0, task.name)
        with LogWriter(
            store, task, "log", behaviour="random", protocol=None, source={}, versions={}
        ) as log:
            log.append(
                rng.integers(256, size=(200, 8, 8), dtype=np.uint8),
                rng.integers(2, size=200).astype(np.int16),
                rng.normal(size=200).astype(np.float32),
                np.arange(1, 201) % 10 == 0,
                np.zeros(200, dtype=bool),
            )
            log.finish()
    vit = ViTConfig(patch=4, width=8, depth=1, heads=2)
    return replace(small_run, stores=(str(store),), encoder=vit, steps=20)


@pytest.mark.parametrize("objective", [SMALL_MAE, CPC(width=8)], ids=lambda o: o.kind)
def test_pretraining_goes_on_as_if_it_had_not_been_stopped(
    pictures: RunConfig, tmp_path: Path, objective: Pretraining
) -> None:
    cfg = replace(pictures, objective=objective)
    whole = train(cfg, tmp_path / "a")
    assert [row["step"] for row in whole.metrics] == [5, 10, 15, 20]
    folder = train(cfg, tmp_path / "b").folder
    (folder / WEIGHTS).unlink()
    newest = folder / "checkpoints" / "step-000000020"
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()
    again = train(cfg, tmp_path / "b", resume=True)
    ours, theirs = (load_file(run.folder / WEIGHTS) for run in (again, whole))
    assert all(ours[name].equal(theirs[name]) for name in theirs)
    names = [{k: v for k, v in row.items() if "_" not in k} for row in whole.metrics]
    assert names == [{k: v for k, v in row.items() if "_" not in k} for row in again.metrics]


@pytest.mark.parametrize("objective", [SMALL_MAE, CPC(width=8)], ids=lambda o: o.kind)
def test_an_encoder_is_handed_on_and_cannot_play_by_itself(
    pictures: RunConfig, tmp_path: Path, objective: Pretraining
) -> None:
    source = train(replace(pictures, objective=objective), tmp_path)
    with pytest.raises(RunError, match=f"scaled_ql_on_{objective.kind}"):
        evaluate(source, episodes=1)
    assert not (source.folder / "scores.jsonl").exists()
    start = Start(run=str(source.folder), of=objective.kind, frozen=True)
    run = train(replace(pictures, start=start, seed=3), tmp_path)
    ours, theirs = (load_file(r.folder / WEIGHTS) for r in (run, source))
    encoder = [name for name in theirs if name.startswith("encoder.")]
    assert encoder
    assert all(ours[name].equal(theirs[name]) for name in encoder)
    assert run.policy().tasks == pictures.tasks


def test_masks_need_patches(small_run: RunConfig, tmp_path: Path) -> None:
    cfg = replace(small_run, objective=SMALL_MAE, encoder=MLPConfig())
    with pytest.raises(ConfigError, match="must be 'vit', got 'mlp'"):
        train(cfg, tmp_path)
