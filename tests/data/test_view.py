"""Which rows a view leaves, against a row-by-row reading of a log."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaledq.core.config import fingerprint, from_json, to_json
from scaledq.core.errors import ConfigError, DataError
from scaledq.core.task import Task
from scaledq.data.columns import Columns
from scaledq.data.rows import ENDED, START, TERMINATED, USABLE, flags
from scaledq.data.store import Log, open_store
from scaledq.data.view import All, Episodes, First, Span, Uniform, View, select

TASK = Task(name="Pong", actions=6, frame_shape=(2,))


def flags_by_hand(
    action: Sequence[int], terminated: Sequence[bool], truncated: Sequence[bool]
) -> list[int]:
    """One row at a time, with the episode's state carried along."""
    out, fresh = [], True
    for row in range(len(action)):
        bits = START if fresh else 0
        last = row + 1 == len(action)
        closing_follows = not last and action[row + 1] == -1
        if action[row] == -1:
            fresh = True
        elif terminated[row] or truncated[row]:
            bits |= ENDED | (TERMINATED if terminated[row] else 0)
            bits |= USABLE if terminated[row] or closing_follows else 0
            fresh = not closing_follows
        else:
            bits |= 0 if last else USABLE
            fresh = False
        out.append(bits)
    return out


ROW = st.sampled_from([(0, 0, 0)] * 3 + [(1, 1, 0), (1, 0, 1), (1, 1, 1), (-1, 0, 0)])


@given(rows=st.lists(ROW, max_size=30))
def test_flags_are_those_of_a_row_by_row_reading(rows: list[tuple[int, int, int]]) -> None:
    columns = np.array(rows, int).reshape(-1, 3)
    action, terminated, truncated = columns[:, 0], columns[:, 1] > 0, columns[:, 2] > 0
    expected = flags_by_hand(action.tolist(), terminated.tolist(), truncated.tolist())
    assert flags(action, terminated, truncated).tolist() == expected


@pytest.fixture(scope="module")
def logs(tmp_path_factory, random_rows, write) -> tuple[Log, ...]:
    store = tmp_path_factory.mktemp("view")
    for name, rows in {"a": 300, "b": 200, "c": 1}.items():
        write(store, TASK, random_rows(TASK, rows, seed=rows), name)
    return open_store(store)["Pong"]


def chosen(logs: Sequence[Log], view: View) -> list[tuple[int, int]]:
    """(log, row) of every virtual index."""
    columns = Columns.load([(log, *view.piece(len(log))) for log in logs])
    selection = select(view, columns, 0, len(columns), task="Pong")
    rows = selection.rows(np.arange(len(selection)))
    assert (np.diff(rows) > 0).all()
    log, row = columns.locate(rows)
    return list(zip(log.tolist(), row.tolist(), strict=True))


def usable(logs: Sequence[Log], view: View | None = None) -> list[tuple[int, int]]:
    found = []
    for number, log in enumerate(logs):
        start, stop = view.piece(len(log)) if view else (0, len(log))
        ends = (getattr(log, n)[start:stop].tolist() for n in ("terminated", "truncated"))
        bits = flags_by_hand(log.action[start:stop].tolist(), *ends)
        found += [(number, start + row) for row, bit in enumerate(bits) if bit & USABLE]
    return found


def test_all_leaves_every_usable_row_once(logs) -> None:
    assert chosen(logs, View()) == usable(logs)


@pytest.mark.parametrize("rows", [First(fraction=0.25), Span(start=0.3, stop=0.71)])
def test_a_cut_view_is_what_a_shorter_log_would_have_been(rows, logs) -> None:
    view = View(rows=rows)
    assert chosen(logs, view) == usable(logs, view)
    fraction = {log: row / len(logs[log]) for log, row in chosen(logs, view)}
    assert all(f < getattr(rows, "stop", 0.25) for f in fraction.values())


def test_uniform_views_are_nested_and_of_the_asked_size(logs) -> None:
    small, large = (set(chosen(logs, View(rows=Uniform(fraction=f)))) for f in (0.2, 0.6))
    other = set(chosen(logs, View(rows=Uniform(fraction=0.2, seed=1))))
    assert small < large < set(usable(logs))
    assert other != small
    assert len(large) / len(usable(logs)) == pytest.approx(0.6, abs=0.1)


def episodes_by_hand(logs: Sequence[Log]) -> list[tuple[float, list[tuple[int, int]]]]:
    """(return, usable rows) of each episode that has an end."""
    found = []
    for number, log in enumerate(logs):
        bits = flags_by_hand(log.action.tolist(), log.terminated.tolist(), log.truncated.tolist())
        edges = [row for row, bit in enumerate(bits) if bit & START] + [len(bits)]
        for start, stop in pairwise(edges):
            rows = [(number, row) for row in range(start, stop) if bits[row] & USABLE]
            if any(bit & ENDED for bit in bits[start:stop]):
                found.append((float(log.reward[start:stop].sum(dtype=np.float64)), rows))
    return found


@pytest.mark.parametrize("which", ["top", "bottom"])
@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.5, 1.0])
def test_episodes_are_chosen_by_return_over_all_logs(which, fraction, logs) -> None:
    ranked = sorted(episodes_by_hand(logs), key=lambda e: e[0], reverse=which == "top")
    kept = ranked[: int(np.ceil(fraction * len(ranked)))]
    view = View(rows=Episodes(which=which, fraction=fraction))
    if rows := sorted(row for _, rows in kept for row in rows):
        assert chosen(logs, view) == rows
    else:
        with pytest.raises(DataError, match="leaves no transition of Pong"):
            chosen(logs, view)


def test_an_empty_view_names_its_task(logs) -> None:
    for rows in (Uniform(fraction=1e-9), First(fraction=1e-9), Episodes(fraction=1.0)):
        with pytest.raises(DataError, match="leaves no transition of Pong's"):
            chosen(logs[2:], View(rows=rows))


def test_shares_are_equal_by_weight_or_by_size() -> None:
    tasks, sizes = ("a", "b", "c"), np.array([1, 4, 16])
    np.testing.assert_allclose(View().shares(tasks, sizes), 1 / 3)
    np.testing.assert_allclose(View(weights={"b": 2.0}).shares(tasks, sizes), [0.25, 0.5, 0.25])
    by_size = View(temperature=1.0).shares(tasks, sizes)
    np.testing.assert_allclose(by_size, sizes / 21)
    np.testing.assert_allclose(View(temperature=2.0).shares(tasks, sizes), np.array([1, 2, 4]) / 7)
    np.testing.assert_allclose(View(temperature=1e9).shares(tasks, sizes), 1 / 3)
    with pytest.raises(ConfigError, match=r"a weight for 'beta'.*known: a, b, c"):
        View(weights={"beta": 1.0}).shares(tasks, sizes)


@pytest.mark.parametrize(
    "bad",
    [
        lambda: First(fraction=0.0),
        lambda: Uniform(fraction=1.1),
        lambda: Uniform(fraction=0.5, seed=-1),
        lambda: Episodes(fraction=float("nan")),
        lambda: Span(start=0.5, stop=0.5),
        lambda: View(weights={"a": 0.0}),
        lambda: View(weights={"a": 1.0}, temperature=1.0),
        lambda: View(temperature=-1.0),
    ],
)
def test_impossible_views_are_refused(bad) -> None:
    with pytest.raises(ConfigError, match="view"):
        bad()


def test_a_view_is_a_config_with_a_fingerprint_of_its_own() -> None:
    views = [
        View(),
        View(rows=First()),
        View(rows=First(fraction=0.1)),
        View(rows=Span(start=0.0, stop=0.5)),
        View(rows=Uniform(fraction=0.1)),
        View(rows=Episodes(fraction=0.1)),
        View(weights={"Pong": 2.0}),
    ]
    assert len({fingerprint(view) for view in views}) == len(views)
    assert [from_json(View, to_json(view)) for view in views] == views
    assert View(rows=All()) == View()
