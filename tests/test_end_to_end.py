"""The command line as a stranger uses it: real games, real processes, and mistakes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TASKS = ("Pong", "Freeway")
SMALL = (
    "--steps", "12", "--batch-size", "8", "--log-every", "4", "--checkpoint-every", "6",
    "--encoder.width", "4", "--neck.width", "16", "--neck.embeddings", "2",
)  # fmt: skip


def scaledq(*words: object, code: int = 0, cwd: Path | None = None) -> subprocess.CompletedProcess:
    """Runs the command and checks its exit code."""
    command = [sys.executable, "-m", "scaledq", *map(str, words)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=env)
    assert done.returncode == code, f"{words}: exit code {done.returncode}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two real games."""
    store = tmp_path_factory.mktemp("e2e") / "store"
    scaledq(
        "collect", *TASKS, "--store", store, "--steps", 400, "--slots", 2, "--protocol", "quick"
    )
    return store


@pytest.fixture(scope="module")
def trained(recorded: Path) -> Path:
    """A run on it."""
    done = scaledq(
        "train", "scaled_ql", "--store", recorded, "--tasks", *TASKS,
        "--out", recorded.parent / "runs", *SMALL,
    )  # fmt: skip
    return Path(done.stdout.strip())


def test_a_recording_can_be_inspected_and_made_again(recorded: Path, tmp_path: Path) -> None:
    assert "Pong" in scaledq("inspect", recorded, "--verify").stdout
    again = tmp_path / "again"
    scaledq("ingest", "action-log", recorded, "--store", again)
    from scaledq.data.store import open_store

    first, second = open_store(recorded), open_store(again)
    for task in TASKS:
        digests = [{log.name: log.digest for log in store[task]} for store in (first, second)]
        assert digests[0] == digests[1]


def test_a_run_is_trained_played_watched_and_reported(trained: Path, tmp_path: Path) -> None:
    assert "step" in scaledq("inspect", trained).stdout
    scaledq("evaluate", trained, "--tasks", "Pong", "--episodes", 1, "--protocol", "quick")
    assert (trained / "scores.jsonl").read_text().count("\n") == 1
    clip = tmp_path / "clip.mp4"
    scaledq("watch", trained, "--task", "Pong", "--out", clip, "--steps", 30)
    assert clip.stat().st_size > 1_000
    page = tmp_path / "report.html"
    scaledq("report", trained, "--out", page)
    assert "Pong" in page.read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("collect", "Pnog", "--store", "s", "--steps", "10"), "did you mean Pong"),
        (
            ("collect", "Pong", "--store", "s", "--steps", "10", "--behaviour", "peristent"),
            "persis",
        ),
        (("collect", "Pong", "--store", "s", "--steps", "0"), "steps"),
        (("collect", "Pong", "--store", "s", "--steps", "9", "--protocol", "x"), "scaled-ql"),
        (("train", "scaled-ql", "--store", "s"), "did you mean scaled_ql"),
        (("train", "scaled_ql", "--store", "nowhere"), "no store at nowhere"),
        (("train", "scaled_ql"), "--store DIR"),
        (("train", "online_c51", "--store", "s"), "makes its own data"),
        (
            ("collect", "Pong", "--store", "s", "--steps", "99", "--behaviour", "dqn"),
            "replay.warmup",
        ),
        (("train", "scaled_ql", "--scale", "huge"), "quick"),
        (("train", "scaled_ql", "--store", "s", "--optim.lr", "-1"), "lr"),
        (("evaluate", "nowhere"), "is not a run"),
        (("finetune", "nowhere", "--task", "Pong", "--store", "s"), "is not a run"),
        (("inspect", "nowhere"), "nowhere"),
        (("report", "nowhere"), "is not a run"),
        (("watch", "nowhere", "--task", "Pong"), "is not a run"),
        (("ingest", "action-log", "nowhere", "--store", "s"), "nowhere"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value[:2]),
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    done = scaledq(*words, code=1, cwd=tmp_path)
    assert done.stderr.startswith("scaledq: error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert says in done.stderr
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.parametrize(
    "words",
    [("trian",), ("train", "scaled_ql", "--optm.lr", "1"), ("collect", "Pong", "--stor", "s")],
)
def test_wrong_usage_is_exit_code_2(words: tuple[str, ...]) -> None:
    assert scaledq(*words, code=2).stderr


def test_the_recipes_are_listed() -> None:
    said = scaledq("train", "--list").stdout
    assert "scaled_ql" in said
    assert "bc" in said
