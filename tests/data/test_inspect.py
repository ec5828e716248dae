"""Every kind of damage is found, and named by log, file and rows."""

import shutil
from collections import Counter
from collections.abc import Callable
from io import StringIO
from math import prod
from pathlib import Path

import pytest
from rich.console import Console

from scaledq.core.errors import DataError
from scaledq.core.task import Task
from scaledq.data.inspect import blocks, check, render, summary, verify
from scaledq.data.loader import Loader, Transitions
from scaledq.data.store import open_store
from scaledq.data.view import View

TASK = Task(name="Pong", actions=6, frame_shape=(6, 5))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, random_rows, write) -> Path:
    store = tmp_path_factory.mktemp("whole")
    write(store, TASK, random_rows(TASK, 1100, seed=0), "good")
    write(store, TASK, random_rows(TASK, 1100, seed=1), "log")
    return store


@pytest.fixture
def store(whole, tmp_path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(whole, tmp_path / "store")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def replace(path: Path) -> None:
    """By another file that is whole in itself."""
    if path.parts[-5] == "frames":
        shutil.copy(path.parents[2] / "0" / "0" / "0", path)
    else:
        shutil.copy(path.parents[3] / "good" / path.parent.parent.name / "c" / path.name, path)


def test_a_whole_store_has_no_damage(store) -> None:
    assert list(verify(open_store(store))) == []
    assert len(list(check(open_store(store)))) == blocks(open_store(store)) == 2 * (35 + 4 * 2)


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink, replace], ids=lambda d: d.__name__)
@pytest.mark.parametrize(
    ("file", "start", "stop"),
    [("frames/c/3/0/0", 96, 128), ("frames/c/34/0/0", 1088, 1100), ("reward/c/1", 1024, 1100)],
)
def test_damage_is_named_by_log_file_and_rows(
    damage: Callable[[Path], None], file: str, start: int, stop: int, store: Path
) -> None:
    damage(store / "Pong" / "log" / file)
    (found,) = verify(open_store(store))
    assert found.log == f"{store}/Pong/log"
    assert (found.array, found.file) == (file.split("/")[0], file)
    assert (found.start, found.stop) == (start, stop)


def test_an_array_without_metadata_is_damage(store) -> None:
    (store / "Pong" / "log" / "action" / "zarr.json").unlink()
    (found,) = verify(open_store(store)["Pong"][1])
    assert (found.file, found.start, found.stop) == ("action/zarr.json", 0, 1100)


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink], ids=lambda d: d.__name__)
def test_damage_met_while_training_is_an_error_that_names_the_log(damage, store) -> None:
    for shard in (store / "Pong" / "log" / "frames" / "c").iterdir():
        damage(shard / "0" / "0")
    loader = Loader(
        [open_store(store)],
        ["Pong"],
        view=View(),
        transitions=Transitions(),
        batch_size=64,
        seed=0,
    )
    with pytest.raises(DataError, match="Pong/log: cannot read frames"):
        list(loader.stream(0, 3))


def test_a_summary_counts_what_a_row_by_row_reading_counts(tmp_path, random_rows, write) -> None:
    logs = [random_rows(TASK, rows, seed=rows) for rows in (400, 250)]
    for name, rows in zip("ab", logs, strict=True):
        write(tmp_path, TASK, rows, name)
    (found,) = summary(open_store(tmp_path))
    tenths, actions, rewards = [[] for _ in range(10)], Counter(), Counter()
    for rows in logs:
        running = 0.0
        for row in range(len(rows)):
            action, reward = int(rows.action[row]), float(rows.reward[row])
            running += reward
            if action >= 0:
                actions[action] += 1
                rewards[class_of(reward)] += 1
            if rows.terminated[row] or rows.truncated[row]:
                tenths[int(10 * row / len(rows))].append(running)
                running = 0.0
    assert found.actions == tuple(actions[action] for action in range(TASK.actions))
    assert found.rewards == {name: rewards[name] for name in found.rewards}
    assert (found.logs, found.rows, found.transitions) == (2, 650, actions.total())
    assert found.return_tenths == pytest.approx([sum(t) / len(t) for t in tenths], rel=1e-5)
    returns = [value for tenth in tenths for value in tenth]
    assert found.return_mean == pytest.approx(sum(returns) / len(returns), rel=1e-5)
    assert found.return_best == pytest.approx(max(returns), rel=1e-5)
    assert found.bytes_a_frame
    assert found.bytes_a_frame > prod(TASK.frame_shape)  # noise cannot be compressed


def class_of(reward: float) -> str:
    if reward < -1:
        return "below -1"
    if reward < 0:
        return "-1 to 0"
    if reward == 0:
        return "0"
    return "0 to 1" if reward <= 1 else "above 1"


def test_a_summary_is_printed_as_tables(store) -> None:
    console = Console(width=160, record=True, file=StringIO())
    console.print(render(summary(open_store(store))))
    text = console.export_text()
    for word in ("Pong", "random", "test", "Contents", "10/10", "below -1"):
        assert word in text
