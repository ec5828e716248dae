"""The page about a store: whole, self-contained, and with the very frames that are in the store."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scaledq.cli import main
from scaledq.core.errors import DataError
from scaledq.core.task import Task
from scaledq.data.inspect import summary
from scaledq.data.store import open_store
from scaledq.data.writer import LogWriter
from scaledq.run.store_page import PICTURES, store_page

ROWS = 90
PONG = Task(name="Pong", actions=6, frame_shape=(10, 12))
COLOUR = Task(name="Colour", actions=2, frame_shape=(3, 9, 7))
VECTOR = Task(name="<b>shop&Co", actions=30, frame_shape=(5,), frame_dtype="float32")


def write(store: Path, task: Task, name: str = "log") -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (ROWS, *task.frame_shape)).astype(task.frame_dtype)
    ends = np.arange(ROWS) % 10 == 9
    behaviour, source = "<script>alert(1)</script>", {"kind": "test"}
    with LogWriter(
        store, task, name, behaviour=behaviour, protocol=None, source=source, versions={}
    ) as log:
        action = rng.integers(0, task.actions, ROWS)
        reward = rng.normal(size=ROWS).astype(np.float32)
        log.append(frames, action, reward, ends, np.zeros(ROWS, bool))
        log.finish()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    for task, name in ((PONG, "a"), (PONG, "b"), (COLOUR, "log"), (VECTOR, "log")):
        write(tmp_path / "store", task, name)
    return tmp_path / "store"


def drawn(store: Path) -> str:
    opened = open_store(store)
    out = store_page(opened, summary(opened), store.parent / "page.html")
    return out.read_text()


def pictures(text: str) -> dict[str, np.ndarray]:
    """By caption."""
    found = re.findall(r'<img alt="([^"]*)" src="data:image/png;base64,([^"]*)">', text)
    return {alt: np.asarray(Image.open(io.BytesIO(base64.b64decode(code)))) for alt, code in found}


def test_pictures_are_the_frames_bit_for_bit(store: Path) -> None:
    seen = {c: p for c, p in pictures(drawn(store)).items() if c[0] in "ab"}
    logs = {log.name: log.read("frames") for log in open_store(store)["Pong"]}
    assert len(seen) == PICTURES
    for caption, pixels in seen.items():
        name, _, row = caption.partition(", row ")
        np.testing.assert_array_equal(pixels, logs[name][int(row)])
    assert {caption[0] for caption in seen} == {"a", "b"}, "from all over the logs"


def test_colours_are_kept_and_vectors_become_one_heat_map(store: Path) -> None:
    seen = pictures(drawn(store))
    frames = open_store(store)["Colour"][0].read("frames")
    coloured = {c: p for c, p in seen.items() if p.ndim == 3}
    assert len(coloured) == PICTURES
    for caption, pixels in coloured.items():
        row = int(caption.partition("row ")[2])
        np.testing.assert_array_equal(pixels, np.moveaxis(frames[row], 0, -1))
    (vectors,) = (p for c, p in seen.items() if " to " in c)
    assert vectors.shape == (5, ROWS)
    values = open_store(store)[VECTOR.name][0].read("frames").T
    np.testing.assert_array_equal(vectors.argmax(1), values.argmax(1))
    np.testing.assert_array_equal(vectors.argmin(1), values.argmin(1))


def test_nothing_in_a_store_becomes_markup_and_nothing_is_fetched(store: Path) -> None:
    text = drawn(store)
    assert "<script>alert" not in text
    assert "<b>shop" not in text
    assert "&lt;b&gt;shop&amp;Co" in text
    references = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert all(ref.startswith(("data:", "#")) for ref in references)
    assert len(set(re.findall(r' id="([^"]*)"', text))) == len(re.findall(r' id="([^"]*)"', text))


def test_a_log_without_an_end_has_no_plot_of_returns(tmp_path: Path) -> None:
    task = Task(name="Endless", actions=2, frame_shape=(4, 4))
    nothing = np.zeros(20, bool)
    with LogWriter(
        tmp_path / "store", task, "log", behaviour="x", protocol=None, source={}, versions={}
    ) as log:
        frames = np.zeros((20, 4, 4), np.uint8)
        log.append(frames, nothing.astype(int), nothing.astype(np.float32), nothing, nothing)
        log.finish()
    assert "No episode ends in these logs." in drawn(tmp_path / "store")


def test_a_damaged_frame_is_named_and_leaves_no_page(store: Path) -> None:
    for file in (store / "Pong" / "b" / "frames" / "c").rglob("0"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match="Pong/b: cannot read frames"):
        drawn(store)
    assert not (store.parent / "page.html").exists()


def test_the_command_line_writes_it(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = store.parent / "page.html"
    main(["inspect", str(store), "--html", str(page)])
    assert str(page) in capsys.readouterr().out
    assert page.read_text().startswith("<!doctype html>")
    with pytest.raises(SystemExit) as stop:
        main(["inspect", str(store), "--html", str(store / "Pong" / "a" / "zarr.json" / "x")])
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "cannot write" in error
