"""Score rows as evaluation writes them."""

from collections.abc import Sequence
from typing import Any

import pytest


def rows_of(
    method: str, task: str, scores: Sequence[float], *, run: str = "", protocol: str = "quick"
) -> list[dict[str, Any]]:
    """One row an episode."""
    same = {"run": run or f"{method}-run", "method": method, "task": task, "protocol": protocol}
    return [
        {**same, "seed": 1000, "episode": i, "score": score, "length": 100}
        for i, score in enumerate(scores)
    ]


@pytest.fixture(scope="session")
def two_games() -> list[dict[str, Any]]:
    """Two methods that were trained once, and the behaviour, on Freeway and Breakout."""
    return [
        *rows_of("scaled_ql", "Freeway", [20.0, 22.0, 24.0]),
        *rows_of("scaled_ql", "Breakout", [15.0, 17.0, 19.0]),
        *rows_of("bc (greedy)", "Freeway", [1.0, 2.0, 3.0]),
        *rows_of("bc (greedy)", "Breakout", [2.0, 2.0, 5.0]),
        *rows_of("behaviour", "Freeway", [4.0, 4.5], run="0", protocol="quick/persistent"),
        *rows_of("behaviour", "Freeway", [5.0], run="1", protocol="quick/persistent"),
        *rows_of("behaviour", "Breakout", [1.0, 3.0], run="0", protocol="quick/persistent"),
    ]
