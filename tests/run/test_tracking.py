"""Who else is told of a run: MLflow's real server, W&B's real files, and who is not there."""

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from scaledq.core.config import to_json
from scaledq.core.errors import ConfigError
from scaledq.run.checkpoint import checkpoints
from scaledq.run.config import RunConfig
from scaledq.run.folder import WEIGHTS, Run
from scaledq.run.tracking import NOTES, numbers
from scaledq.run.train import train

from .test_train import PROGRAM

needs_mlflow = pytest.mark.skipif(find_spec("mlflow") is None, reason="mlflow is not installed")
needs_wandb = pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # of other people's libraries


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module", autouse=True)
def nobody_elses_business() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        yield


@pytest.fixture(scope="module")
def starting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of MLflow that has been asked to start."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/runs.db",
        "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    # Its jobs are for judging language models, and want more libraries.
    env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "said").open("wb") as said:
        server = subprocess.Popen(
            command, cwd=folder, stdout=said, stderr=said, env=env, start_new_session=True
        )
        yield f"http://127.0.0.1:{port}"
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.fixture(scope="module")
def server(starting: str) -> str:
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"{starting}/health", timeout=5).read()
            return starting
        except OSError:
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.1)


def ask(server: str, path: str, **query: str) -> dict[str, Any]:
    """What the server's own API says."""
    words = "&".join(f"{name}={value}" for name, value in query.items())
    with urllib.request.urlopen(f"{server}/api/2.0/mlflow/{path}?{words}", timeout=20) as answer:
        return json.load(answer)


def noted(folder: Path) -> dict[str, Any]:
    return json.loads((folder / NOTES).read_text())


@needs_wandb
@pytest.mark.usefixtures("starting")  # the other test's server starts meanwhile
def test_wandb_has_files_of_every_row_and_a_resumed_run_is_the_same(
    small_run: RunConfig, tmp_path: Path
) -> None:
    cfg = replace(small_run, track=("wandb",))
    run = train(cfg, tmp_path)
    assert run.folder.name == small_run.folder, "who is told does not name a run"
    assert wandb_rows(run.folder) == [(row["step"], row["loss"]) for row in run.metrics]
    known = noted(run.folder)["wandb"]["id"]
    (run.folder / NOTES).write_text(json.dumps({"wandb": {"id": known, "step": 20}}))
    train(stopped(run, cfg), tmp_path, resume=True)
    twice = [*run.metrics, *run.metrics[-2:]]
    assert wandb_rows(run.folder) == [(row["step"], row["loss"]) for row in twice]
    assert {file.name for file in files(run.folder)} == {f"run-{known}.wandb"}


def stopped(run: Run, cfg: RunConfig) -> RunConfig:
    """Makes the run one that was stopped after the checkpoint before its last."""
    (run.folder / WEIGHTS).unlink()
    shutil.rmtree(checkpoints(run.folder / "checkpoints")[-1])
    return cfg


def files(folder: Path) -> list[Path]:
    return sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"))


def wandb_rows(folder: Path) -> list[tuple[int, float]]:
    """Step and loss of every row in the files of the offline mode."""
    out = []
    for record in (record for file in files(folder) for record in wandb_records(file)):
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            row = {i.key or i.nested_key[0]: json.loads(i.value_json) for i in items}
            out.append((int(row["step"]), row["loss"]))
    return out


def wandb_records(file: Path) -> list[Any]:
    """All of a run's records; W&B's own process writes the last of them a moment after its end."""
    from wandb.proto import wandb_internal_pb2  # pyright: ignore[reportMissingImports]

    deadline = time.monotonic() + 20
    while True:
        records = [wandb_internal_pb2.Record.FromString(r) for r in leveldb(file.read_bytes())]  # pyright: ignore[reportAttributeAccessIssue]
        if records and records[-1].WhichOneof("record_type") == "exit":
            return records
        assert time.monotonic() < deadline, f"{file} has no end"
        time.sleep(0.05)


def leveldb(data: bytes, block: int = 32_768) -> Iterator[bytes]:
    """The records of a LevelDB log: chunks of checksum, size and kind (1 whole, 4 last), in blocks
    whose last bytes stay empty where no head fits; W&B's begins with 7 bytes of its own."""
    at, record = 7, b""
    while at + 7 <= len(data):
        if (left := block - at % block) < 7:
            at += left
            continue
        size, kind = struct.unpack_from("<HB", data, at + 4)
        record += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            yield record
            record = b""


@needs_mlflow
def test_mlflow_is_told_what_it_missed_and_nothing_twice(
    small_run: RunConfig,
    tmp_path: Path,
    server: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cfg = replace(small_run, track=("mlflow",))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    run = train(cfg, tmp_path)
    assert run.finished
    said = [line for line in capsys.readouterr().err.splitlines() if ": mlflow: " in line]
    assert len(said) == 2
    assert "goes on without it" in said[0]
    assert "6 rows were not sent" in said[1]
    assert not (run.folder / NOTES).exists()

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    train(stopped(run, cfg), tmp_path, resume=True)
    assert ": mlflow: " not in capsys.readouterr().err
    known = noted(run.folder)["mlflow"]
    assert known["step"] == 30
    told = ask(server, "runs/get", run_id=known["id"])["run"]
    assert told["info"]["status"] == "FINISHED"
    assert told["info"]["run_name"] == run.name
    parameters = {item["key"]: item["value"] for item in told["data"]["params"]}
    assert (parameters["steps"], parameters["objective.kind"]) == ("30", "scaled_ql")

    # What a process that was killed had sent and not noted, the server knows.
    (run.folder / NOTES).write_text(json.dumps({"mlflow": {"id": known["id"], "step": -1}}))
    train(stopped(run, cfg), tmp_path, resume=True)
    assert noted(run.folder)["mlflow"] == known
    history = ask(server, "metrics/get-history", run_id=known["id"], metric_key="loss")["metrics"]
    found = [(point["step"], point["value"]) for point in history]
    assert found == [(row["step"], row["loss"]) for row in run.metrics]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_library_is_one_line_before_anything_is_written(
    small_run: RunConfig, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf"pip install 'scaledq\[{name}\]'"):
        train(replace(small_run, track=(name,)), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@needs_wandb
def test_where_nobody_is_logged_in_nobody_is_asked_and_the_run_goes_on(
    small_run: RunConfig, tmp_path: Path
) -> None:
    cfg = tmp_path / "cfg.json"
    cfg.write_bytes(to_json(replace(small_run, track=("wandb",))))
    env = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    env |= {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")}
    command = [sys.executable, "-c", PROGRAM, str(cfg), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=60)
    said = done.stderr
    assert done.returncode == 0, said
    assert "run `wandb login`" in said
    assert "6 rows were not sent" in said


def test_only_numbers_are_told() -> None:
    row = {"step": 3, "score": {"Pong": 1.5, "note": "x"}, "left": None, "loss": 0.25}
    assert numbers(row) == {"step": 3, "score.Pong": 1.5, "loss": 0.25}


def test_a_tracker_is_named_once(small_run: RunConfig) -> None:
    with pytest.raises(ConfigError, match="track"):
        replace(small_run, track=("mlflow", "mlflow"))
