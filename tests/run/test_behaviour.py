"""The behaviour's scores: whole episodes, and of a view only those that end within it."""

from pathlib import Path

import numpy as np
import pytest

from scaledq.data.store import open_store
from scaledq.data.view import First, Span, View
from scaledq.run.evaluate import behaviour_rows


@pytest.mark.parametrize(
    ("view", "episodes"),
    [
        (None, range(30)),
        (View(rows=First(fraction=0.5)), range(15)),
        # 65 rows hold six whole episodes of ten, and a half.
        (View(rows=First(fraction=65 / 300)), range(6)),
        # Rows 15 to 44 begin and end amid an episode.
        (View(rows=Span(start=15 / 300, stop=45 / 300)), range(2, 4)),
    ],
)
def test_a_views_scores_are_those_of_its_whole_episodes(
    view: View | None, episodes: range, store: Path
) -> None:
    opened = open_store(store)
    rows = behaviour_rows([opened], ["left"], view)
    (log,) = opened["left"]
    returns = np.asarray(log.reward, np.float64).reshape(30, 10).sum(axis=1)
    assert [row.episode for row in rows] == list(episodes)
    assert [row.score for row in rows] == pytest.approx([returns[i] for i in episodes])
