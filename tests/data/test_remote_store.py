"""Stores that are not on this disk: written to and read from real local servers, like any other."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorstore as ts

from scaledq.core.errors import DataError
from scaledq.core.task import Task
from scaledq.data import zarr
from scaledq.data.inspect import summary, verify
from scaledq.data.loader import Loader, Transitions
from scaledq.data.store import INDEX, Store, open_store, write_index
from scaledq.data.view import View

PONG = Task(name="Pong", actions=6, frame_shape=(6, 5))
SHOP = Task(name="A shop:1", actions=3, frame_shape=(6, 5))


def fill(store: Path | str, random_rows: Callable, write: Callable) -> None:
    for task, name, seed in ((PONG, "a", 0), (PONG, "b", 1), (SHOP, "log", 2)):
        write(store, task, random_rows(task, 150, seed), name)


def batches(store: Store) -> list[np.ndarray]:
    loader = Loader(
        [store], store.tasks, view=View(), transitions=Transitions(), batch_size=32, seed=0
    )
    return [batch.frames.numpy() for batch in loader.stream(0, 3)]


def assert_alike(there: Store, here: Store) -> None:
    assert there.tasks == here.tasks == ("A shop:1", "Pong")
    assert [[log.digest for log in there[t]] for t in there.tasks] == [
        [log.digest for log in here[t]] for t in here.tasks
    ]
    assert not list(verify(there))
    np.testing.assert_array_equal(batches(there), batches(here))
    assert summary(there)[1].return_tenths == summary(here)[1].return_tenths


@pytest.fixture
def here(tmp_path: Path, random_rows, write) -> Store:
    fill(tmp_path / "here", random_rows, write)
    return open_store(tmp_path / "here")


def test_a_bucket_holds_a_store_like_a_disk(here: Store, s3: str, random_rows, write) -> None:
    fill(s3, random_rows, write)
    assert_alike(open_store(s3), here)


def test_a_web_server_serves_a_store_that_has_an_index(here: Store, serve) -> None:
    url = f"http://127.0.0.1:{serve('web.py', here.path)}"
    with pytest.raises(DataError, match=f"no {INDEX}"):
        open_store(url)
    write_index(here)
    assert_alike(open_store(url), here)


def test_memory_holds_a_store_as_long_as_the_process(here: Store, tmp_path, random_rows, write):
    fill(f"memory://{tmp_path}", random_rows, write)
    assert_alike(open_store(f"memory://{tmp_path}"), here)


def test_a_bucket_with_an_index_is_not_listed(
    s3: str, random_rows, write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(s3, PONG, random_rows(PONG, 40, 0), "a")
    write_index(open_store(s3))
    listed = []
    monkeypatch.setattr(ts.KvStore, "list", lambda *_: listed.append(1))
    assert [log.name for log in open_store(s3)["Pong"]] == ["a"]
    assert not listed


def test_a_new_log_takes_the_index_away_so_that_none_is_hidden(
    s3: str, tmp_path: Path, random_rows, write
) -> None:
    for store in (s3, tmp_path / "disk"):
        write(store, PONG, random_rows(PONG, 40, 0), "a")
        write_index(open_store(store))
        write(store, PONG, random_rows(PONG, 40, 1), "b")
        assert [log.name for log in open_store(store)["Pong"]] == ["a", "b"]
    assert not (tmp_path / "disk" / INDEX).exists()


def test_a_writer_that_died_leaves_nothing_to_see_in_a_bucket(
    s3: str, random_rows, begin, write
) -> None:
    write(s3, PONG, random_rows(PONG, 40, 0), "a")
    writer = begin(s3, PONG, "b")
    writer.append(*random_rows(PONG, 40, 1).columns())
    assert writer.flush() == 40
    writer.close()
    left = open_store(s3)
    assert ([log.name for log in left["Pong"]], left.unfinished) == (["a"], ("Pong/b",))
    with begin(s3, PONG, "b", resume=40) as again:
        again.append(*random_rows(PONG, 40, 2).columns())
        again.finish()
    assert not list(verify(open_store(s3)))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ('["Pong/a", "Pong/b"]', "its index.json names Pong/b, which is not there"),
        ('["../../etc"]', "is no list"),
        ('["Pong/.."]', "is no list"),
        ('{"Pong": "a"}', "is no list"),
        ("[3]", "is no list"),
        ("[", "Expecting value"),
        ("\0\xff", "Expecting value"),
    ],
)
def test_an_index_that_lies_is_one_error(
    content: str, fault: str, tmp_path: Path, random_rows, write
) -> None:
    store = f"memory://{tmp_path}"
    write(store, PONG, random_rows(PONG, 40, 0), "a")
    zarr.open_folder(zarr.location(store)).write(INDEX, content.encode()).result()
    with pytest.raises(DataError, match=fault) as error:
        open_store(store)
    assert "\n" not in str(error.value)


def test_places_without_a_store_are_one_error(s3: str) -> None:
    for place, fault in {
        s3: "no store at s3://bucket/",
        "s3://nobucket/x": "NoSuchBucket",
        "s3:///x": "names no bucket",
        "http:///x": "names no bucket or server",
        "gopher://x": "no way to reach gopher://x",
        "memory://nothing/there": "no store at memory://nothing/there",
    }.items():
        with pytest.raises(DataError, match=fault) as error:
            open_store(place)
        assert "\n" not in str(error.value)


def test_the_index_names_logs_as_json(here: Store) -> None:
    write_index(here)
    assert json.loads(Path(here.path, INDEX).read_text()) == ["A shop:1/log", "Pong/a", "Pong/b"]
