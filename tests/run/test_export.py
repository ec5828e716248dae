"""Exported files: the same actions as the run, on every format, and refusals in one line."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import scaledq
from scaledq.core.errors import RunError, TaskError
from scaledq.core.seeds import stream
from scaledq.learn.bcq import DiscreteBCQ
from scaledq.play.policy import NetPolicy
from scaledq.run.card import KEY, card, read_card, write_card
from scaledq.run.export import export
from scaledq.run.folder import Run
from scaledq.run.policies import load
from scaledq.run.train import train

from .conftest import TASKS, small_config, write_log

FORMATS = ("policy.onnx", "policy.pt2", "policy.safetensors")
EXPORT = """
import sys
from pathlib import Path
from scaledq.run.export import export
from scaledq.run.folder import open_run
for file in sys.argv[1:]:
    export(open_run(Path(file).parent), Path(file))
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Q-learning in every format and BCQ as ONNX, exported by a process without test hooks."""
    place = tmp_path_factory.mktemp("export")
    for task in TASKS:
        write_log(place / "store", task)
    first = small_config(place / "store", steps=4)
    second = replace(first, objective=DiscreteBCQ())
    q, bcq = (train(cfg, place / "runs") for cfg in (first, second))
    files = [q.folder / name for name in FORMATS] + [bcq.folder / "policy.onnx"]
    command = [sys.executable, "-c", EXPORT, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [q, bcq]


def observations(rows: int) -> np.ndarray:
    return stream(0, "obs").integers(256, size=(rows, 2, 6), dtype=np.uint8)


def exported(run: Run) -> list[str]:
    return sorted(file for file in FORMATS if (run.folder / file).exists())


def test_every_format_acts_as_the_run_does(runs: list[Run]) -> None:
    assert [len(exported(run)) for run in runs] == [3, 1]
    for run in runs:
        here = run.policy()
        assert isinstance(here, NetPolicy)
        for rows, name in ((1, "left"), (33, "right")):
            obs = observations(rows)
            heads = np.full(rows, here.tasks.index(name))
            wanted = here.values(obs, heads)
            for file in exported(run):
                there = scaledq.load_policy(run.folder / file)
                assert isinstance(there, NetPolicy)
                assert there(obs, task=name).tolist() == here(obs, task=name).tolist(), file
                found = there.values(obs, heads)
                assert (np.isneginf(found) == np.isneginf(wanted)).all()
                assert np.allclose(found, wanted, rtol=1e-5, atol=1e-5), file


def test_onnx_needs_nothing_of_ours(runs: list[Run]) -> None:
    """The graph alone: uint8 frames in, actions out, its rules in the metadata."""
    file = runs[0].folder / "policy.onnx"
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    obs, task = observations(17), np.arange(17) % 2
    inputs = {"obs": obs, "task": task}
    actions, values = map(np.asarray, session.run(["action", "values"], inputs))
    ours = runs[0].policy()
    assert isinstance(ours, NetPolicy)
    assert actions.tolist() == ours.values(obs, task).argmax(-1).tolist()
    assert np.isneginf(values[task == 0][:, 2]).all()  # `left` has two actions, `right` three
    said = json.loads(session.get_modelmeta().custom_metadata_map[KEY])
    assert [t["name"] for t in said["tasks"]] == ["left", "right"]
    assert said["config"]["protocol"]["name"] == runs[0].config.protocol.name
    onnx.checker.check_model(onnx.load(file), full_check=True)


def test_a_file_says_how_it_was_made_and_not_where(runs: list[Run]) -> None:
    for file in FORMATS:
        _, about = load(runs[0].folder / file)
        assert about == card(runs[0])
        assert about.config == replace(runs[0].config, stores=())
        text = (runs[0].folder / f"{file}.md").read_text()
        assert "| right | 3 |" in text
        assert runs[0].config.stores[0] not in text
        assert runs[0].config.stores[0] not in write_card(about)


def test_observations_of_another_kind_are_refused(runs: list[Run]) -> None:
    policy = scaledq.load_policy(runs[0].folder / "policy.onnx")
    wrong = (observations(2).astype(np.float32), observations(2)[:, :1], observations(2)[..., :5])
    for obs in wrong:
        with pytest.raises(TaskError, match=r"need observations of uint8 \[R 2 6\]"):
            policy(obs, task="left")
    with pytest.raises(TaskError, match="did you mean right"):
        policy(observations(1), task="rihgt")


def test_a_damaged_file_is_told_in_one_line(runs: list[Run], tmp_path: Path) -> None:
    for file in FORMATS:
        whole = (runs[0].folder / file).read_bytes()
        for content in (b"", whole[: len(whole) // 2], b"\0" * 100):
            broken = tmp_path / f"broken{Path(file).suffix}"
            broken.write_bytes(content)
            with pytest.raises(RunError) as told:
                scaledq.load_policy(broken)
            assert "\n" not in str(told.value)
            assert str(broken) in str(told.value)


def test_what_is_no_policy_is_refused(runs: list[Run], tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no policy at"):
        scaledq.load_policy(tmp_path / "nothing.onnx")
    with pytest.raises(RunError, match="is not a run"):
        scaledq.load_policy(tmp_path)
    with pytest.raises(RunError, match=r"as \.onnx, \.pt2 or \.safetensors, got .*; did you mean"):
        export(runs[0], tmp_path / "policy.onx")
    assert not list(tmp_path.glob("policy*"))
    plain = onnx.load(runs[0].folder / "policy.onnx")
    del plain.metadata_props[:]
    onnx.save(plain, tmp_path / "foreign.onnx")
    with pytest.raises(RunError, match="not made by `scaledq export`"):
        scaledq.load_policy(tmp_path / "foreign.onnx")


def test_a_card_of_another_version_is_refused(runs: list[Run]) -> None:
    text = write_card(replace(card(runs[0]), format=99))
    with pytest.raises(RunError, match="of format 99, this version of scaledq reads 1"):
        read_card(text, where="x.onnx")
    with pytest.raises(RunError, match="is damaged"):
        read_card(text[:50], where="x.onnx")


def test_the_safetensors_file_holds_the_weights_bit_for_bit(runs: list[Run]) -> None:
    policy = scaledq.load_policy(runs[0].folder / "policy.safetensors")
    assert isinstance(policy, NetPolicy)
    net = policy.net
    assert isinstance(net, torch.nn.Module)
    for name, tensor in runs[0].network.state_dict().items():
        assert torch.equal(tensor, net.state_dict()[name]), name
