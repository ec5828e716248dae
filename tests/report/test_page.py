"""The page: well-formed, self-contained, with the numbers in it, and no claim too many."""

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from scaledq.core.config import fingerprint
from scaledq.core.errors import DataError
from scaledq.core.protocol import QUICK, SCALED_QL
from scaledq.report import words
from scaledq.report.content import Health, ReportData, Section, Video
from scaledq.report.page import page
from scaledq.report.scores import group
from scaledq.report.stats import Estimate
from scaledq.report.tables import Column, Table

from .conftest import rows_of

Rows = list[dict[str, Any]]
VOID = {"meta", "link", "br", "img", "input", "hr"}
MP4 = b"\0\0\0\x18ftypisom a film"


class Checker(HTMLParser):
    """Refuses tags that do not match; collects ids, references and text."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "srcset", "action", "poster"):
                self.references.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"{tag} closes another tag at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["script"], ["style"]):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))


def report(rows: Rows, **changes: Any) -> ReportData:
    given: dict[str, Any] = {
        "title": "Two games & a <test>",
        "scores": group(rows),
        "subject": "scaled_ql",
        "protocol": QUICK,
        "labels": {"scaled_ql": "Scaled QL", "behaviour": "Behaviour"},
        "facts": {"hardware": "2 cores of something", "seconds": "301"},
        "curves": {"Scaled QL": [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 1.5}]},
        "health": (Health("run-1", "effective_rank", 3.0, "5 to inf", "raise alpha"),),
        "videos": (Video("Freeway", "score 22", MP4),),
        "resamples": 50,
        "commands": ("scaledq report runs/* --out page.html",),
    }
    return ReportData(**(given | changes))


@pytest.fixture(scope="module")
def two_games_page(two_games: Rows) -> str:
    return page(report(two_games))


def test_the_page_is_well_formed_and_needs_no_network(two_games_page: str) -> None:
    text = two_games_page
    found = Checker(text)
    assert len(found.ids) == len(set(found.ids))
    inside = [r for r in found.references if r.startswith("#")]
    assert {r[1:] for r in inside} <= set(found.ids)
    assert all(r.startswith("data:") for r in found.references if r not in inside)
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    assert "$" not in re.sub(r"base64,[\w+/=]+", "", text)


def test_the_page_contains_the_numbers(two_games_page: str) -> None:
    text = Checker(two_games_page).text
    for words_ in (
        "Two games & a <test>",
        "IQM over 2 tasks is 0.637",  # (22 / 29.6 + (17 - 1.7) / 28.8) / 2
        "0.743",  # Freeway
        "0.531",  # Breakout
        "30.5",  # human
        "126.6",  # DQN
        "2 cores of something",
        "effective rank",
        "raise alpha",
        "scaledq report runs/* --out page.html",
        "recorded under quick/persistent",
        "3 episodes of one run",
        "they do not cover other training seeds",
    ):
        assert words_ in text


def test_the_page_carries_videos_and_table_files(two_games_page: str) -> None:
    references = Checker(two_games_page).references
    films = [r for r in references if r.startswith("data:video/mp4;base64,")]
    assert [base64.b64decode(f.partition(",")[2]) for f in films] == [MP4]
    files = [r for r in references if r.startswith("data:text/plain")]
    csv = base64.b64decode(files[0].partition(",")[2]).decode()
    assert csv.startswith("method,IQM,IQM low,IQM high,median,")


def test_the_same_data_give_the_same_page(two_games: Rows, two_games_page: str) -> None:
    assert page(report(two_games)) == two_games_page


def test_a_method_that_misses_a_task_is_left_out_of_the_aggregates(two_games: Rows) -> None:
    data = report(two_games + rows_of("iql", "Freeway", [9.0]))
    text = Checker(page(data)).text
    assert "Not scored on every task, so not here: iql." in text
    subject = report(rows_of("scaled_ql", "Freeway", [9.0]) + rows_of("bc", "Breakout", [1.0]))
    assert "Scaled QL was not scored on Breakout" in Checker(page(subject)).text


def test_tasks_of_ones_own_have_raw_scores_and_no_warning_about_atari() -> None:
    rows = rows_of("scaled_ql", "Mine", [3.0]) + rows_of("bc", "Mine", [1.0])
    text = Checker(page(report(rows, videos=(), health=(), curves={}))).text
    assert "Raw scores only" in text
    assert "paper's" not in text
    assert "Learning curves" not in text


def test_a_game_without_agreed_human_score_is_counted_with_and_without(two_games: Rows) -> None:
    carnival = [
        row
        for method in ("scaled_ql", "bc (greedy)", "behaviour")
        for row in rows_of(method, "Carnival", [900.0, 1000.0])
    ]
    text = Checker(page(report(two_games + carnival))).text
    assert "IQM of 2 with agreed human score" in text


def test_a_study_adds_sections_of_its_own(two_games: Rows) -> None:
    table = Table(name="ours", caption="c", columns=(Column("arm"),), rows=(("C51",),))
    section = Section("Ours beside published", "Mini scale.", tables=(table,))
    found = Checker(page(report(two_games, sections=(section,))))
    assert "ours-beside-published" in found.ids
    assert "C51" in found.text


def test_the_headline_claims_no_more_than_the_intervals_allow() -> None:
    iqms = {
        "ours": Estimate(0.31, 0.28, 0.34),
        "behaviour": Estimate(0.10, 0.09, 0.12),
        "bc": Estimate(0.27, 0.25, 0.29),
        "dt": Estimate(0.4, 0.35, 0.45),
    }
    assert words.headline("ours", iqms, score="human-normalised", tasks=4) == (
        "ours's human-normalised IQM over 4 tasks is 0.310 [0.280, 0.340]: it lies above behaviour "
        "0.100 [0.090, 0.120]; it lies below dt 0.400 [0.350, 0.450]; its interval overlaps with "
        "that of bc 0.270 [0.250, 0.290]."
    )


def test_a_protocol_other_than_the_papers_is_warned_of(two_games: Rows) -> None:
    assert words.warning(report(two_games)) == (
        "Played under protocol quick, which is not the paper's: sticky actions 0.25 (paper: 0), "
        "epsilon 0.01 (paper: 0.001) and episodes cut after 4,500 steps (paper: 27,000). "
        "Do not compare these scores with published ones."
    )
    as_paper = rows_of("scaled_ql", "Pong", [1.0], protocol="scaled-ql")
    assert words.warning(report(as_paper, protocol=SCALED_QL)) == ""


def test_a_report_about_what_was_not_scored_is_refused(two_games: Rows) -> None:
    with pytest.raises(DataError, match="no scores of 'iql', only of scaled_ql, bc"):
        report(two_games, subject="iql")
    slower = replace(QUICK, step_cap=100)
    rows = rows_of("scaled_ql", "Pong", [1.0], protocol=f"quick-{fingerprint(slower)}")
    assert report(rows, protocol=slower).protocol == slower
    with pytest.raises(DataError, match="do not go with 'quick'"):
        report(rows, protocol=QUICK)
    with pytest.raises(DataError, match="protocol 'quick' do not go with 'scaled-ql'"):
        report(two_games, protocol=SCALED_QL)
