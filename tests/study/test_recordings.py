"""What is told of recorded learning runs is what their folders say."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from scaledq.core.config import to_json
from scaledq.core.errors import RunError
from scaledq.report import tables
from scaledq.run.collect import CollectConfig
from scaledq.run.pqn import PQNConfig
from scaledq.study import recordings
from scaledq.study.pages import write_results

LOGS = Path(__file__).parents[2] / "logs"
SHIPPED = sorted(path for path in LOGS.iterdir() if path.is_dir())
ABOUT = CollectConfig(tasks=("Breakout", "Pong"), steps=100, slots=2, behaviour=PQNConfig())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten rows of metrics; Breakout's episodes end in every second one of them."""
    place = tmp_path / "recording"
    place.mkdir()
    (place / "recording.json").write_bytes(to_json(ABOUT))
    rows = [
        {"step": 10 * i, "seconds": 60.0 * i, "score": {"Breakout": None if i % 2 else float(i),
         "Pong": -21.0 + i}, "episodes": {"Breakout": 0 if i % 2 else 2, "Pong": i}}
        for i in range(1, 11)
    ]  # fmt: skip
    (place / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def test_tenths_weigh_rows_by_their_episodes(folder: Path) -> None:
    breakout, pong = recordings.curves(folder)
    assert breakout.parts == [None, 2.0, None, 4.0, None, 6.0, None, 8.0, None, 10.0]
    assert pong.parts == [-21.0 + i for i in range(1, 11)]
    longer = replace(pong, about=replace(ABOUT, steps=50))
    assert longer.parts[1::2] == [-20.0, -19.0, -18.0, -17.0, -16.0]
    twice = replace(pong, about=replace(ABOUT, steps=200))
    means = [(i * (i - 21.0) + (i + 1) * (i - 20.0)) / (2 * i + 1) for i in (1, 3, 5, 7, 9)]
    assert twice.parts[:5] == pytest.approx(means)
    assert twice.parts[5:] == [None] * 5


def test_the_document_has_every_recording_and_its_figure(folder: Path, tmp_path: Path) -> None:
    write_results([*SHIPPED, folder], tmp_path / "results.md")
    told = (tmp_path / "results.md").read_text()
    assert "Breakout 5.9 times" in told, "10 / 1.7 of random play"
    assert "Pong +9.7 points" in told, "-11 against -20.7 of random play"
    drawn = (tmp_path / "results-recordings.svg").read_text()
    assert "results-recordings.svg" in told
    for name in ("Breakout, seed 0", "Pong"):
        assert name in drawn


def test_the_shipped_table_is_what_the_shipped_folders_say() -> None:
    found = [curve for folder in SHIPPED for curve in recordings.curves(folder)]
    for place in (LOGS / "README.md", LOGS.parent / "docs" / "results.md"):
        text = place.read_text()
        assert tables.markdown(recordings.summary(found)) in text, place
        assert tables.markdown(recordings.tenths(found)) in text, place


def break_metrics(folder: Path, text: str) -> None:
    (folder / "metrics.jsonl").write_text(text)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda f: (f / "metrics.jsonl").unlink(), r"metrics\.jsonl is not there"),
        (lambda f: break_metrics(f, ""), "is empty"),
        (lambda f: break_metrics(f, '{"step": 1'), "not a line of JSON"),
    ],
)
def test_a_broken_recording_is_one_line(
    folder: Path, harm: Callable[[Path], None], said: str
) -> None:
    harm(folder)
    with pytest.raises(RunError, match=said):
        recordings.curves(folder)
