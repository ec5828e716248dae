"""A table as plain data, and the four ways it is written: Markdown, CSV, LaTeX, HTML."""

import csv as csv_format
import io
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

from scaledq.report.scores import game_of
from scaledq.report.stats import Estimate

Cell = str | int | float | Estimate | None
"""None is a number that does not exist; it is written as a dash."""

LATEX = {
    "\\": r"\textbackslash{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "—": "---",
    "τ": r"$\tau$",
}


@dataclass(frozen=True, slots=True)
class Column:
    """A heading, and how the numbers below it are written."""

    name: str
    digits: int = 1
    """After the point, up to 1000; greater numbers have none, and commas."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Columns and rows of cells; the first column names the row."""

    name: str
    """Of files that hold it: letters, digits and dashes."""
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            assert len(row) == len(self.columns), f"{self.name}: {row} is not a full row"


def number(value: float, digits: int) -> str:
    """`1,234` or `12.3`; never `-0.0`."""
    text = f"{value:,.{0 if abs(value) >= 1000 else digits}f}"
    return text if text.strip("-0.,") else text.lstrip("-")


def text(cell: Cell, column: Column) -> str:
    """A cell as a person reads it."""
    match cell:
        case None:
            return "—"
        case str():
            return cell
        case int():
            return f"{cell:,}"
        case float():
            return number(cell, column.digits)
        case Estimate(value, low, high):
            bounds = f"[{number(low, column.digits)}, {number(high, column.digits)}]"
            return f"{number(value, column.digits)} {bounds}"


def markdown(table: Table) -> str:
    """A pipe table; numbers are aligned to the right."""
    heads = [column.name for column in table.columns]
    rule = ["---:" if numeric(table, i) else "---" for i in range(len(heads))]
    rows = [[text(c, k) for c, k in zip(row, table.columns, strict=True)] for row in table.rows]
    lines = [heads, rule, *rows]
    return "".join("| " + " | ".join(c.replace("|", r"\|") for c in li) + " |\n" for li in lines)


def csv(table: Table) -> str:
    """Full precision; an interval takes two more columns, `... low` and `... high`."""
    spread = [_any_estimate(table, i) for i in range(len(table.columns))]
    out = io.StringIO()
    writer = csv_format.writer(out, lineterminator="\n")
    head: list[str] = []
    for column, wide in zip(table.columns, spread, strict=True):
        head += [column.name + end for end in ("", " low", " high")] if wide else [column.name]
    writer.writerow(head)
    for row in table.rows:
        flat: list[Cell] = []
        for cell, wide in zip(row, spread, strict=True):
            parts = (cell.value, cell.low, cell.high) if isinstance(cell, Estimate) else (cell,)
            flat += [*parts, None, None] if wide and len(parts) == 1 else parts
        writer.writerow(["" if cell is None else cell for cell in flat])
    return out.getvalue()


def latex(table: Table) -> str:
    r"""A `table` environment for the booktabs package; intervals are set in `\scriptsize`."""
    align = "".join("r" if numeric(table, i) else "l" for i in range(len(table.columns)))
    head = " & ".join(_tex(column.name) for column in table.columns)
    rows = []
    for row in table.rows:
        cells = zip(row, table.columns, strict=True)
        rows.append("    " + " & ".join(_tex_cell(c, k) for c, k in cells) + r" \\")
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{_tex(table.caption)}}}",
            rf"  \label{{tab:{table.name}}}",
            rf"  \begin{{tabular}}{{{align}}}",
            r"    \toprule",
            f"    {head} \\\\",
            r"    \midrule",
            *rows,
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def html(table: Table) -> str:
    """A `<table class="sortable">`; each cell's `data-sort` is the number that it sorts by."""
    heads = []
    for i, column in enumerate(table.columns):
        kind = ' class="number"' if numeric(table, i) else ""
        heads.append(f'<th scope="col"{kind}><button>{escape(column.name)}</button></th>')
    rows = []
    for row in table.rows:
        cells = [_html_cell(c, table, i) for i, c in enumerate(row)]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<table class="sortable" id="table-{escape(table.name)}">'
        f"<caption>{escape(table.caption)}</caption>"
        f"<thead><tr>{''.join(heads)}</tr></thead>\n<tbody>{chr(10).join(rows)}</tbody></table>"
    )


def numeric(table: Table, index: int) -> bool:
    """Whether a column holds numbers (or dashes) and no text."""
    cells = [row[index] for row in table.rows]
    return bool(cells) and not any(isinstance(cell, str) for cell in cells)


def _any_estimate(table: Table, index: int) -> bool:
    return any(isinstance(row[index], Estimate) for row in table.rows)


def _html_cell(cell: Cell, table: Table, index: int) -> str:
    shown = text(cell, table.columns[index])
    if isinstance(cell, str):
        if index == 0:
            return f'<th scope="row">{escape(shown)}</th>'
        kind = ' class="long"' if len(shown) > 40 else ""
        return f"<td{kind}>{escape(shown)}</td>"
    kind = ' class="number"' if numeric(table, index) else ""
    if cell is None:
        return f'<td{kind} data-sort="">{shown}</td>'
    value = cell.value if isinstance(cell, Estimate) else cell
    head, _, bounds = shown.partition(" [")
    span = f' <span class="interval">[{bounds}</span>' if bounds else ""
    return f'<td{kind} data-sort="{value!r}">{head}{span}</td>'


def _tex(words: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in words)


def _tex_cell(cell: Cell, column: Column) -> str:
    if cell is None or isinstance(cell, str):
        return _tex(text(cell, column))
    shown = text(cell, column).replace("-", "$-$")
    head, _, bounds = shown.partition(" [")
    return rf"{head} {{\scriptsize [{bounds}}}" if bounds else head


def score_table(raw: Mapping[str, Mapping[str, Estimate | None]]) -> Table:
    """label -> task -> raw score: a row a task; random play, DQN and human where published."""
    tasks = list(dict.fromkeys(task for scores in raw.values() for task in scores))
    games = {task: game_of(task) for task in tasks}
    columns = [Column("task"), *(Column(label) for label in raw)]
    rows: list[tuple[Cell, ...]] = [
        (task, *(scores.get(task) for scores in raw.values())) for task in tasks
    ]
    if any(games.values()):
        columns += [Column("random"), Column("DQN (best)"), Column("human")]
        found = [(g.random, g.dqn_best, g.human) if g else (None,) * 3 for g in games.values()]
        rows = [row + numbers for row, numbers in zip(rows, found, strict=True)]
    caption = "Raw score: mean over episodes, with its 95 % interval"
    return Table(name="scores", caption=caption, columns=tuple(columns), rows=tuple(rows))


def normalised_table(
    normalised: Mapping[str, Mapping[str, Estimate | None]], *, caption: str
) -> Table:
    """label -> task -> normalised score: a row a task."""
    tasks = list(dict.fromkeys(task for scores in normalised.values() for task in scores))
    return Table(
        name="normalised-scores",
        caption=caption,
        columns=(Column("task"), *(Column(label, digits=3) for label in normalised)),
        rows=tuple((task, *(scores.get(task) for scores in normalised.values())) for task in tasks),
    )


def aggregate_table(
    aggregates: Mapping[str, Mapping[str, Estimate]],
    resampled: Mapping[str, str],
    *,
    caption: str,
) -> Table:
    """label -> statistic -> estimate: a row a method, and what its intervals were drawn from."""
    names = list(dict.fromkeys(name for found in aggregates.values() for name in found))
    return Table(
        name="aggregates",
        caption=caption,
        columns=(
            Column("method"),
            *(Column(name, digits=3) for name in names),
            Column("resampled"),
        ),
        rows=tuple(
            (label, *(found.get(name) for name in names), resampled[label])
            for label, found in aggregates.items()
        ),
    )
