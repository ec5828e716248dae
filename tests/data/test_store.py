"""What is written is read back bit for bit or refused in a line; nothing half-written is seen."""

import json
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaledq.core.errors import DataError
from scaledq.core.task import Task
from scaledq.data.rows import COLUMNS
from scaledq.data.store import Store, open_store, write_index
from scaledq.data.writer import LogWriter

PICTURE = Task(name="Freeway:m1d0", actions=3, frame_shape=(6, 5))
VECTOR = Task(name="CartPole", actions=2, frame_shape=(4,), frame_dtype="float32")


def only_log(store: Store | Path | str):
    found = store if isinstance(store, Store) else open_store(store)
    (log,) = found[found.tasks[0]]
    return log


def assert_holds(log, rows) -> None:
    np.testing.assert_array_equal(log.frames.read().result(), rows.frames)
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(log, name), getattr(rows, name))
        assert getattr(log, name).dtype == COLUMNS[name]


@pytest.mark.parametrize("task", [PICTURE, VECTOR], ids=lambda t: t.name)
@pytest.mark.parametrize("place", ["disk", "memory"])
def test_a_log_is_read_back_bit_for_bit(task, place, tmp_path, random_rows, write) -> None:
    store = f"memory://{tmp_path.name}/{task.name}" if place == "memory" else tmp_path
    rows = random_rows(task, 2500, seed=0)
    write(store, task, rows)
    log = only_log(store)
    assert_holds(log, rows)
    assert (log.task, log.name, len(log)) == (task, "log", 2500)
    assert log.manifest.source == {"made": "by a test"}


def test_a_store_may_be_named_by_a_way_that_goes_up(tmp_path, random_rows, write) -> None:
    (tmp_path / "inner").mkdir()
    rows = random_rows(PICTURE, 200, seed=0)
    write(tmp_path / "inner" / ".." / "store", PICTURE, rows)
    assert_holds(only_log(tmp_path / "inner" / ".." / "store"), rows)
    assert_holds(only_log(tmp_path / "store"), rows)


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 90), max_size=8), flushes=st.integers(0, 255))
def test_portions_and_flushes_leave_no_trace(cuts, flushes) -> None:
    store = f"memory://{uuid4()}"
    frames = np.arange(90 * 2, dtype=np.uint8).reshape(90, 2)
    columns = (np.arange(90) % 2, np.arange(90) / 7, np.arange(90) % 5 == 4, np.zeros(90, bool))
    task = Task(name="t", actions=2, frame_shape=(2,))
    digests = []
    for name, edges in {"pieces": [0, *sorted(cuts), 90], "whole": [0, 90]}.items():
        writer = LogWriter(
            store, task, name, behaviour="", protocol=None, source={}, versions={}, shard=16
        )
        for number, (start, stop) in enumerate(pairwise(edges)):
            writer.append(frames[start:stop], *(column[start:stop] for column in columns))
            if flushes >> number & 1:
                assert writer.flush() == stop
        digests.append(writer.finish().digest)
    assert digests[0] == digests[1]
    np.testing.assert_array_equal(open_store(store)["t"][0].frames.read().result(), frames)


def test_the_manifest_counts_what_the_rows_say(tmp_path, random_rows, write) -> None:
    rows = random_rows(PICTURE, 700, seed=1)
    write(tmp_path, PICTURE, rows)
    returns, running = [], 0.0
    for reward, ended in zip(rows.reward, rows.terminated | rows.truncated, strict=True):
        running += float(reward)
        if ended:
            returns.append(running)
            running = 0.0
    counts = only_log(tmp_path).manifest.counts
    assert (counts.rows, counts.transitions) == (700, (rows.action >= 0).sum())
    assert counts.episodes == len(returns)
    assert counts.return_mean == pytest.approx(np.mean(returns))
    assert counts.return_best == pytest.approx(max(returns))


def test_equal_data_have_an_equal_digest_wherever_they_lie(tmp_path, random_rows, write) -> None:
    rows = random_rows(PICTURE, 100, seed=2)
    write(tmp_path / "a", PICTURE, rows, "one")
    write(tmp_path / "b", PICTURE, rows, "two")
    write(tmp_path / "c", PICTURE, random_rows(PICTURE, 100, seed=3))
    a, b, c = (only_log(tmp_path / name).digest for name in "abc")
    assert a == b != c


def test_a_log_is_invisible_until_it_is_finished(tmp_path, random_rows, begin, write) -> None:
    rows = random_rows(PICTURE, 100, seed=0)
    writer = begin(tmp_path, PICTURE, "growing")
    writer.append(*rows.columns())
    writer.flush()
    assert open_store(tmp_path).tasks == ()
    assert open_store(tmp_path).unfinished == ("Freeway:m1d0/growing",)
    with pytest.raises(DataError, match="no log of Freeway:m1d0 is finished"):
        open_store(tmp_path)["Freeway:m1d0"]
    write(tmp_path, PICTURE, rows, "done")
    assert [log.name for log in open_store(tmp_path)["Freeway:m1d0"]] == ["done"]
    writer.finish()
    assert [log.name for log in open_store(tmp_path)["Freeway:m1d0"]] == ["done", "growing"]


KILLED = """
import os, signal, sys
import numpy as np
from scaledq.core.task import Task
from scaledq.data.writer import LogWriter
task = Task(name="t", actions=2, frame_shape=(2,))
about = {"behaviour": "", "protocol": None, "source": {}, "versions": {}}
log = LogWriter(sys.argv[1], task, "log", shard=16, **about)
rows = lambda a, b: (np.arange(a, b, dtype=np.uint8)[:, None].repeat(2, 1), np.zeros(b - a, int),
                     np.ones(b - a), np.zeros(b - a, bool), np.zeros(b - a, bool))
log.append(*rows(0, 40))
log.flush()
log.append(*rows(40, 100))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_leaves_nothing_visible_and_what_it_flushed_resumes(
    tmp_path, begin
) -> None:
    subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False)
    assert open_store(tmp_path).tasks == ()
    task = Task(name="t", actions=2, frame_shape=(2,))
    with pytest.raises(DataError, match="cannot resume at row 101"):
        begin(tmp_path, task, shard=16, resume=101)
    writer = begin(tmp_path, task, shard=16, resume=35)
    frames = np.full((5, 2), 255, np.uint8)
    writer.append(frames, np.ones(5, int), np.ones(5), np.ones(5, bool), np.zeros(5, bool))
    counts = writer.finish().counts
    assert (counts.rows, counts.episodes, counts.return_best) == (40, 5, 36.0)
    expected = np.concatenate([np.arange(35, dtype=np.uint8)[:, None].repeat(2, 1), frames])
    np.testing.assert_array_equal(only_log(tmp_path).frames.read().result(), expected)


@pytest.mark.parametrize("kept", [1, 32, 64, 70, 1024, 1100])
def test_a_resumed_log_equals_one_that_never_stopped(
    kept, tmp_path, random_rows, begin, write
) -> None:
    rows = random_rows(PICTURE, 1200, seed=4)
    write(tmp_path / "whole", PICTURE, rows)
    with begin(tmp_path / "parts", PICTURE) as stopped:
        stopped.append(*rows[:1150].columns())
        stopped.flush()
    with begin(tmp_path / "parts", PICTURE, resume=kept) as resumed:
        resumed.append(*rows[kept:].columns())
        resumed.finish()
    whole, parts = only_log(tmp_path / "whole"), only_log(tmp_path / "parts")
    assert parts.manifest == whole.manifest
    assert_holds(parts, rows)


FULL = """
import resource, sys
import numpy as np
from scaledq.core.errors import DataError
from scaledq.core.task import Task
from scaledq.data.store import open_store
from scaledq.data.writer import LogWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
task = Task(name="t", actions=2)
about = {"behaviour": "", "protocol": None, "source": {}, "versions": {}}
log = LogWriter(sys.argv[1], task, "log", shard=16, **about)
noise = np.random.default_rng(0).integers(0, 256, (40, 84, 84)).astype(np.uint8)
zeros = np.zeros(40)
rows = (noise, zeros.astype(int), zeros, zeros > 0, zeros > 0)
for what in (lambda: (log.append(*rows), log.flush()), log.finish):
    try:
        what()
    except DataError as error:
        print(error)
print(open_store(sys.argv[1]).tasks)
"""


def test_a_full_disk_is_one_line_and_leaves_nothing_visible(tmp_path) -> None:
    told = subprocess.run([sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True)
    first, second, tasks = told.stdout.splitlines()
    assert first.startswith(f"log {tmp_path}/t/log: cannot write: ")
    assert "File too large" in first
    assert "this writer is closed" in second
    assert tasks == "()"


def rows_of(k: int, **changes: object) -> list:
    rows = {
        "frames": np.zeros((k, 6, 5), np.uint8),
        "action": np.zeros(k, int),
        "reward": np.zeros(k),
        "terminated": np.zeros(k, bool),
        "truncated": np.zeros(k, bool),
    }
    return list((rows | changes).values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"frames": np.zeros((2, 5, 6), np.uint8)},
            r"should be uint8 \(6, 5\), got uint8 \(5, 6\)",
        ),
        ({"frames": np.zeros((2, 6, 5))}, "got float64"),
        ({"action": np.zeros(3, int)}, r"2 frames but action has shape \(3,\)"),
        ({"reward": np.zeros((2, 1))}, r"reward has shape \(2, 1\)"),
        ({"action": np.array([0, 3])}, r"row 3 has an action outside \[-1, 3\)"),
        ({"action": np.array([-2, 0])}, r"row 2 has an action outside \[-1, 3\)"),
        ({"action": np.array([0.5, 1])}, "action should be int16, got float64"),
        ({"terminated": np.array([0, 1])}, "terminated should be bool, got int64"),
        ({"reward": np.array([0, np.nan])}, "not a finite"),
        ({"reward": np.array([1e300, 0])}, "not a finite"),
        ({"action": np.array([0, -1]), "reward": np.ones(2)}, "row 3 has no action but a reward"),
        ({"action": np.array([-1, 0]), "truncated": np.ones(2, bool)}, "no action but an end"),
    ],
)
def test_impossible_rows_are_refused_and_the_log_stays_whole(
    changes, message, tmp_path, begin
) -> None:
    writer = begin(tmp_path, PICTURE)
    writer.append(*rows_of(2))
    with pytest.raises(DataError, match=message):
        writer.append(*rows_of(2, **changes))
    writer.append(*rows_of(2))
    assert writer.finish().counts.rows == 4


def test_a_finished_log_is_never_overwritten(tmp_path, random_rows, begin, write) -> None:
    write(tmp_path, PICTURE, random_rows(PICTURE, 10, seed=0))
    with pytest.raises(DataError, match="finished already"):
        begin(tmp_path, PICTURE)


def test_bad_names_sizes_and_empty_logs_are_refused(tmp_path, begin) -> None:
    for name in ("", "..", "a/b"):
        with pytest.raises(DataError, match="usable as a folder"):
            begin(tmp_path, PICTURE, name)
    with pytest.raises(DataError, match="multiple of 16"):
        begin(tmp_path, PICTURE, shard=40)
    with pytest.raises(DataError, match="no rows"):
        begin(tmp_path, PICTURE).finish()
    with pytest.raises(DataError, match="no way to reach"):
        open_store("ftp://somewhere/store")


def test_a_missing_store_and_a_missing_task_are_told_apart(tmp_path, random_rows, write) -> None:
    with pytest.raises(DataError, match="no store at"):
        open_store(tmp_path / "nowhere")
    write(tmp_path, PICTURE, random_rows(PICTURE, 10, seed=0))
    with pytest.raises(DataError, match=r"no task 'Freway:m1d0'; did you mean Freeway:m1d0\?"):
        open_store(tmp_path)["Freway:m1d0"]


def manifest_file(store: Path) -> Path:
    return store / PICTURE.name / "log" / "zarr.json"


def set_format(text: str) -> str:
    value = json.loads(text)
    value["attributes"]["scaledq"]["format"] = 7
    return json.dumps(value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace('"episodes": ', '"episodes": 1'), "manifest .* is damaged"),
        (lambda text: text[: len(text) // 2], "holds no manifest"),
        (lambda text: "[]", "holds no manifest"),
        (set_format, "format version 7, this scaledq reads version 1"),
    ],
    ids=["bit", "cut", "other", "version"],
)
def test_a_manifest_that_is_damaged_or_newer_is_refused_by_name(
    damage, message, tmp_path, random_rows, write
) -> None:
    write(tmp_path, PICTURE, random_rows(PICTURE, 10, seed=0))
    path = manifest_file(tmp_path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(DataError, match=message) as raised:
        open_store(tmp_path)
    assert str(path.parent) in str(raised.value)


def test_logs_that_disagree_about_their_task_are_refused(tmp_path, random_rows, write) -> None:
    other = Task(name=PICTURE.name, actions=4, frame_shape=(6, 5))
    write(tmp_path, PICTURE, random_rows(PICTURE, 10, seed=0), "a")
    write(tmp_path, other, random_rows(other, 10, seed=0), "b")
    with pytest.raises(DataError, match="logs a and b of Freeway:m1d0 disagree"):
        open_store(tmp_path)


def test_an_array_that_is_not_the_manifests_is_refused(tmp_path, random_rows, write) -> None:
    write(tmp_path, PICTURE, random_rows(PICTURE, 10, seed=0))
    metadata = tmp_path / PICTURE.name / "log" / "frames" / "zarr.json"
    metadata.write_text(metadata.read_text().replace("[10,6,5]", "[11,6,5]"))
    with pytest.raises(DataError, match=r"frames should be uint8 \(10, 6, 5\)"):
        _ = only_log(tmp_path).frames


def test_missing_blocks_are_zeros_only_where_that_is_asked_for(
    tmp_path, random_rows, write
) -> None:
    rows = random_rows(PICTURE, 100, seed=0)
    write(tmp_path, PICTURE, rows)
    shutil.rmtree(tmp_path / PICTURE.name / "log" / "frames" / "c" / "1")
    with pytest.raises(DataError, match="cannot read frames"):
        only_log(tmp_path).read("frames", 30, 40)
    sparse = only_log(open_store(tmp_path, missing="zeros"))
    expected = rows.frames[30:40] * (np.arange(30, 40) < 32)[:, None, None]
    np.testing.assert_array_equal(sparse.read("frames", 30, 40), expected)


def test_an_index_names_the_finished_logs(tmp_path, random_rows, begin, write) -> None:
    write(tmp_path, PICTURE, random_rows(PICTURE, 10, seed=0))
    begin(tmp_path, PICTURE, "unfinished")
    write_index(open_store(tmp_path))
    assert json.loads((tmp_path / "index.json").read_text()) == ["Freeway:m1d0/log"]
