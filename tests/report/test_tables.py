"""One table, written four ways, and read back."""

import csv
import io
import re

import pytest

from scaledq.report import tables
from scaledq.report.stats import Estimate
from scaledq.report.tables import Column, Table

TABLE = Table(
    name="demo",
    caption="Scores & more",
    columns=(Column("task"), Column("100% ours", digits=2), Column("runs"), Column("note")),
    rows=(
        ("Free|way", Estimate(-0.004, -1.25, 1234.5678), 3, "a_b"),
        ("<Pong>", None, None, "x" * 41),
    ),
)


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (0.0, 1, "0.0"),
        (-0.04, 1, "0.0"),
        (-0.06, 1, "-0.1"),
        (1234.5, 2, "1,234"),
        (12.345, 2, "12.35"),
    ],
)
def test_numbers_are_short_and_never_minus_zero(value: float, digits: int, shown: str) -> None:
    assert tables.number(value, digits) == shown


def test_markdown_aligns_numbers_and_escapes_pipes() -> None:
    assert tables.markdown(TABLE).splitlines() == [
        "| task | 100% ours | runs | note |",
        "| --- | ---: | ---: | --- |",
        r"| Free\|way | 0.00 [-1.25, 1,235] | 3 | a_b |",
        f"| <Pong> | — | — | {'x' * 41} |",
    ]


def test_csv_keeps_full_precision_and_gives_intervals_columns() -> None:
    head, first, second = csv.reader(io.StringIO(tables.csv(TABLE)))
    assert head == ["task", "100% ours", "100% ours low", "100% ours high", "runs", "note"]
    assert first == ["Free|way", "-0.004", "-1.25", "1234.5678", "3", "a_b"]
    assert second[1:5] == ["", "", "", ""]


def test_latex_escapes_what_latex_reserves() -> None:
    text = tables.latex(TABLE)
    assert r"\caption{Scores \& more}" in text
    assert r"task & 100\% ours & runs & note \\" in text
    assert r"Free|way & 0.00 {\scriptsize [$-$1.25, 1,235]} & 3 & a\_b \\" in text
    assert r"\begin{tabular}{lrrl}" in text
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


def test_html_escapes_and_carries_what_to_sort_by() -> None:
    text = tables.html(TABLE)
    assert "&lt;Pong&gt;" in text
    assert re.findall(r'data-sort="([^"]*)"', text) == ["-0.004", "3", "", ""]
    assert '<td class="long">xxx' in text


def test_a_score_table_shows_published_scores_beside_ours() -> None:
    table = tables.score_table({"ours": {"Breakout": Estimate(5.0, 4.0, 6.0), "Mine": None}})
    assert [c.name for c in table.columns] == ["task", "ours", "random", "DQN (best)", "human"]
    assert table.rows[0][2:] == (1.7, 126.62, 30.5)
    assert table.rows[1] == ("Mine", None, None, None, None)
    own = tables.score_table({"ours": {"Mine": Estimate(5.0, 4.0, 6.0)}})
    assert [c.name for c in own.columns] == ["task", "ours"]


def test_an_aggregate_table_says_what_was_resampled() -> None:
    found = {"ours": {"IQM": Estimate(0.5, 0.4, 0.6)}}
    table = tables.aggregate_table(found, {"ours": "3 runs"}, caption="")
    assert tables.markdown(table).splitlines()[-1] == "| ours | 0.500 [0.400, 0.600] | 3 runs |"
