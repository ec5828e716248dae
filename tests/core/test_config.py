"""Configs: canonical, closed, and named by what departs from the defaults."""

from typing import Annotated, Literal

import pytest

from scaledq.core.config import by_kind, config, departures, fingerprint, from_json, to_json
from scaledq.core.errors import ConfigError


@config
class Round:
    kind: Literal["round"] = "round"
    radius: float = 1.0


@config
class Square:
    kind: Literal["square"] = "square"
    side: float = 2.0


@config
class Drawing:
    tasks: tuple[str, ...]
    shape: Annotated[Round | Square, by_kind] = Round()
    width: int = 3


@config
class OlderDrawing:
    tasks: tuple[str, ...]
    shape: Annotated[Round | Square, by_kind] = Round()


WHOLE = Drawing(tasks=("a", "b"), shape=Square(side=5.0))


def test_json_round_trip_keeps_kind_and_value() -> None:
    assert from_json(Drawing, to_json(WHOLE)) == WHOLE


def test_a_field_added_with_a_default_leaves_older_names_alone() -> None:
    older = OlderDrawing(tasks=("a", "b"), shape=Square(side=5.0))
    assert fingerprint(older) == fingerprint(WHOLE)


def test_every_departure_from_a_default_changes_the_name() -> None:
    arms = [
        Drawing(tasks=("a",)),
        Drawing(tasks=("a", "b")),
        Drawing(tasks=("a",), width=4),
        Drawing(tasks=("a",), shape=Square()),
        Drawing(tasks=("a",), shape=Round(radius=2.0)),
    ]
    assert len({fingerprint(arm) for arm in arms}) == len(arms)
    assert departures(arms[3]) == {"tasks": ["a"], "shape": {"kind": "square"}}


def test_fingerprints_are_frozen() -> None:
    """Run folders are found by them: renew only together with a migration of run folders."""
    assert fingerprint(WHOLE) == "385432d2"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"tasks": ["a"], "widht": 4}', "did you mean width"),
        ('{"tasks": ["a"], "shape": {"kind": "round", "radus": 4}}', "did you mean radius"),
        ('{"tasks": ["a"], "width": "4"}', "'width'"),
        ('{"tasks": ["a"], "shape": {"kind": "oval"}}', "oval"),
        ("{", "Drawing"),
        ("{}", "tasks"),
    ],
)
def test_a_wrong_field_is_named_with_what_came(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        from_json(Drawing, text)
