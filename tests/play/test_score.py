"""Rows of scores: what goes in comes out, and damage is told with its line."""

from dataclasses import replace
from pathlib import Path

import pytest

from scaledq.core.errors import RunError
from scaledq.core.protocol import QUICK, SCALED_QL
from scaledq.play.rollout import Episode
from scaledq.play.score import ScoreRow, append_scores, label, read_scores, write_scores

EPISODE = Episode(
    task="Pong", slot=1, index=2, number=5, seed=9, score=-3.5, length=120, ended="terminated"
)
ROW = ScoreRow.of(EPISODE, run="a", method="scaled_ql", protocol=QUICK)


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    rows = [ROW, replace(ROW, score=1e-17, method="bc (greedy)"), replace(ROW, task="Boxing:m0d1")]
    write_scores(path, rows)
    assert read_scores(path) == rows
    append_scores(path, rows[:1])
    assert read_scores(path) == [*rows, ROW]
    write_scores(path, [])
    assert read_scores(path) == []


def test_a_row_says_who_played_what_under_which_rules() -> None:
    assert (
        ScoreRow(
            run="a",
            method="scaled_ql",
            task="Pong",
            seed=9,
            episode=5,
            score=-3.5,
            length=120,
            protocol="quick",
        )
        == ROW
    )


def test_a_preset_with_other_rules_is_not_called_by_its_name() -> None:
    assert label(SCALED_QL) == "scaled-ql"
    changed = label(replace(SCALED_QL, step_cap=100))
    assert changed.startswith("scaled-ql-")
    assert changed != label(replace(SCALED_QL, step_cap=101))
    assert label(replace(SCALED_QL, name="mine", sticky=0.5)) == "mine"


def test_a_damaged_file_is_told_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    with pytest.raises(RunError, match="does not exist"):
        read_scores(path)
    write_scores(path, [ROW, ROW])
    text = path.read_text()
    path.write_text(text.replace('"score":-3.5', '"score":"high"', 1))
    with pytest.raises(RunError, match=r"line 1: field 'score'"):
        read_scores(path)
    path.write_text(text + '{"run": "a", "extra": 1}\n')
    with pytest.raises(RunError, match="line 3"):
        read_scores(path)
