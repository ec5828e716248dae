"""The server as strangers meet it: a real process on loopback, good requests and bad ones."""

import base64
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest

from scaledq.core.errors import RunError
from scaledq.core.seeds import stream
from scaledq.run.folder import Run
from scaledq.run.policies import load
from scaledq.run.serve import ServeConfig, serve
from scaledq.run.train import train

from .conftest import TASKS, small_config, write_log

TOKEN = "a token of the test"
HEADERS = {"authorization": f"Bearer {TOKEN}"}
PATIENCE = 1.0
LIMITS = (
    "--port", "0", "--patience", str(PATIENCE), "--max-rows", "32", "--max-bytes", "20000",
)  # fmt: skip


@dataclass(frozen=True)
class Served:
    """A run, and where it answers."""

    run: Run
    process: subprocess.Popen[str]
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, task: str, **given: object) -> httpx.Response:
        url = f"{self.url}/v1/tasks/{task}/actions"
        return httpx.post(url, **({"headers": HEADERS} | given))  # pyright: ignore


signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell has it ignored


def started(policy: Path, *options: str, token: str = "") -> tuple[subprocess.Popen[str], int]:
    command = [sys.executable, "-m", "scaledq", "serve", str(policy), *options]
    env = os.environ | {"OMP_NUM_THREADS": "1", "SCALEDQ_TOKEN": token}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)
    assert process.stderr
    said = process.stderr.readline()
    found = re.search(r"on http://127.0.0.1:(\d+)$", said.strip())
    assert found, said + process.stderr.read()
    port = int(found.group(1))
    for _ in range(100):
        try:
            httpx.get(f"http://127.0.0.1:{port}/health")
            return process, port
        except httpx.HTTPError:
            time.sleep(0.05)
    raise AssertionError("it does not answer")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    place = tmp_path_factory.mktemp("serve")
    for task in TASKS:
        write_log(place / "store", task)
    run = train(small_config(place / "store", steps=4), place / "runs")
    process, port = started(run.folder, *LIMITS, token=TOKEN)
    with process:
        yield Served(run, process, port)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130


def observations(rows: int) -> np.ndarray:
    return stream(1, "serve").integers(256, size=(rows, 2, 6), dtype=np.uint8)


def test_bytes_lists_and_base64_get_the_policys_actions(served: Served) -> None:
    obs, policy = observations(7), served.run.policy()
    octets = HEADERS | {"content-type": "application/octet-stream"}
    for task, actions in (("left", 2), ("right", 3)):
        wanted = policy(obs, task=task).tolist()
        answers = (
            served.ask(task, content=obs.tobytes(), headers=octets),
            served.ask(task, json={"obs": obs.tolist()}),
            served.ask(task, json={"obs": base64.b64encode(obs.tobytes()).decode()}),
        )
        assert [a.status_code for a in answers] == [200] * 3
        assert [a.json() for a in answers] == [{"actions": wanted}] * 3
        told = served.ask(task, json={"obs": obs.tolist()}, params={"values": True}).json()
        assert np.shape(told["values"]) == (7, actions)
        assert np.argmax(told["values"], axis=1).tolist() == wanted


def test_it_tells_what_it_plays_and_how_it_is(served: Served) -> None:
    tasks = httpx.get(f"{served.url}/v1/tasks", headers=HEADERS).json()
    wanted = {"task": "left", "actions": 2, "obs": [2, 6], "dtype": "uint8"}
    assert tasks == [wanted, wanted | {"task": "right", "actions": 3}]
    assert httpx.get(f"{served.url}/health").json()["status"] == "ok"
    before = decisions(served)
    served.ask("left", json={"obs": observations(5).tolist()})
    assert decisions(served) == before + 5


def decisions(served: Served) -> float:
    text = httpx.get(f"{served.url}/metrics", headers=HEADERS).text
    return sum(map(float, re.findall(r'decisions_total\{task="left"\} (\S+)', text)))


@pytest.mark.parametrize(
    ("given", "status", "says"),
    [
        ({"json": {"obs": []}}, 422, "numbers of uint8"),
        ({"json": {"obs": [[[1] * 5] * 2]}}, 422, "numbers of uint8, got numbers [1, 2, 5]"),
        ({"json": {"obs": [[[1] * 6, [1]]]}}, 422, "numbers of uint8"),
        ({"json": {"obs": [[[256] * 6] * 2]}}, 422, "some are none"),
        ({"json": {"obs": [[[0.5] * 6] * 2]}}, 422, "some are none"),
        ({"json": {"obs": [[["a"] * 6] * 2]}}, 422, "text"),
        ({"json": {"obs": [[[True] * 6] * 2]}}, 422, "booleans"),
        ({"json": {"obs": None}}, 422, "numbers of uint8"),
        ({"json": {"obs": "no base64!"}}, 422, "base64"),
        ({"json": {"obs": "AAAA"}}, 422, "12 bytes"),
        ({"json": {"obs": [[[1] * 6] * 2], "x": 1}}, 422, "one field"),
        ({"json": [1]}, 422, "one field"),
        ({"json": {"obs": [[[1] * 6] * 2] * 33}}, 422, "1 to 32 rows"),
        ({"content": b"", "type": "application/octet-stream"}, 422, "1 to 32 rows"),
        ({"content": b"1" * 13, "type": "application/octet-stream"}, 422, "whole number"),
        ({"content": b"{", "type": "application/json"}, 400, "not JSON"),
        ({"content": b"[" * 9000, "type": "application/json"}, 400, "not JSON"),
        ({"content": b"\xff\xfe", "type": "application/json"}, 400, "not JSON"),
        ({"content": b"x" * 20_001, "type": "application/json"}, 413, "20,000 bytes"),
        ({"content": iter([b"x" * 15_000] * 2), "type": "application/json"}, 413, "20,000"),
        ({"content": b"x", "type": "text/html"}, 415, "text/html"),
        ({"content": b"x"}, 415, "no type"),
    ],
)
def test_a_bad_request_is_told_why(
    served: Served, given: dict[str, object], status: int, says: str
) -> None:
    kind = given.pop("type", None) if isinstance(given, dict) else None
    headers = HEADERS | ({"content-type": str(kind)} if kind else {})
    answer = served.ask("left", **given, headers=headers)
    assert answer.status_code == status, answer.text
    assert says in answer.json()["error"]
    assert httpx.get(f"{served.url}/health").status_code == 200


def test_every_route_is_in_the_schema_and_counted_under_its_path(served: Served) -> None:
    schema = httpx.get(f"{served.url}/openapi.json", headers=HEADERS).json()
    act = "/v1/tasks/{task}/actions"
    assert set(schema["paths"]) == {"/health", "/metrics", "/v1/tasks", act}
    wanted = [("task", "path"), ("values", "query")]
    assert [(p["name"], p["in"]) for p in schema["paths"][act]["post"]["parameters"]] == wanted
    before = answered(served, act, 200), answered(served, act, 422)
    served.ask("left", json={"obs": observations(1).tolist()})
    served.ask("left", json={})
    assert (answered(served, act, 200), answered(served, act, 422)) == tuple(n + 1 for n in before)


def answered(served: Served, path: str, status: int) -> float:
    text = httpx.get(f"{served.url}/metrics", headers=HEADERS).text
    line = re.escape(f'scaledq_requests_total{{path="{path}",status="{status}"}}')
    return sum(map(float, re.findall(rf"{line} (\S+)", text)))


@pytest.mark.parametrize(("value", "status"), [("1", 200), ("false", 200), ("", 422), ("x", 422)])
def test_values_are_asked_for_by_a_boolean(served: Served, value: str, status: int) -> None:
    answer = served.ask("left", json={"obs": observations(1).tolist()}, params={"values": value})
    assert answer.status_code == status, answer.text
    assert ("values" in answer.json()) == (value == "1")


def test_unknown_tasks_and_paths_are_not_found(served: Served) -> None:
    answer = served.ask("lefd", json={"obs": observations(1).tolist()})
    assert (answer.status_code, answer.json()) == (
        404,
        {"error": "no task 'lefd'; did you mean left?"},
    )
    assert httpx.get(f"{served.url}/nothing", headers=HEADERS).status_code == 404
    assert httpx.delete(f"{served.url}/health").status_code == 405
    other = httpx.get(f"{served.url}/v1/tasks/left/actions", headers=HEADERS)
    assert (other.status_code, other.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    "value", ["", "Bearer", "Bearer x", f"Basic {TOKEN}", TOKEN, "Bearer \xe9"]
)
def test_without_the_token_nothing_is_told(served: Served, value: str) -> None:
    headers = {b"authorization": value.encode("latin-1")} if value else {}
    for path in ("/v1/tasks", "/metrics", "/openapi.json", "/nothing"):
        answer = httpx.get(f"{served.url}{path}", headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert TOKEN not in answer.text
        assert "left" not in answer.text


@pytest.mark.parametrize(
    "sent",
    [
        "GET /health HTTP/1.1\r\nhost: x\r\n",
        f"POST /v1/tasks/left/actions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n"
        "content-type: application/json\r\ncontent-length: 50\r\n\r\n{",
    ],
    ids=["headers", "body"],
)
def test_a_slow_client_is_told_and_left(served: Served, sent: str) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=10 * PATIENCE) as line:
        line.sendall(sent.encode())
        began = time.monotonic()
        assert line.recv(4096).startswith(b"HTTP/1.1 408")
        assert time.monotonic() - began > 0.5 * PATIENCE


def test_what_is_no_http_is_refused(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as line:
        line.sendall(b"\x16\x03\x01\x02\x00\x01\x00 hello\r\n\r\n")
        assert line.recv(4096).startswith(b"HTTP/1.1 400")
    assert httpx.get(f"{served.url}/health").status_code == 200


def test_schemathesis_finds_no_fault(served: Served, tmp_path: Path) -> None:
    """But that the schema cannot say how many bytes a row has, so that check is left out."""
    command = [
        Path(sys.executable).parent / "st", "run", f"{served.url}/openapi.json",
        "-H", f"Authorization: Bearer {TOKEN}", "--max-examples", "25", "--seed", "1",
        "--checks", "all", "--exclude-checks", "positive_data_acceptance", "--no-color",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "No issues found" in done.stdout, done.stdout


def test_a_taken_port_is_one_line(served: Served) -> None:
    policy, card = load(served.run.folder)
    with pytest.raises(RunError, match=f"cannot listen on 127.0.0.1:{served.port}: .*in use"):
        serve(policy, card, ServeConfig(port=served.port))
