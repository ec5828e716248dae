"""The page about runs of which some were never played. On a toy."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scaledq.core.errors import RunError
from scaledq.core.protocol import Protocol
from scaledq.data.loader import Transitions
from scaledq.data.writer import LogWriter
from scaledq.learn.objective import ScaledQL
from scaledq.nets.head import NeckConfig
from scaledq.nets.mlp import MLPConfig
from scaledq.play.moment import Moment
from scaledq.play.picture import CAPTION, GAME
from scaledq.play.toy import random_log, task
from scaledq.run.config import RunConfig
from scaledq.run.evaluate import evaluate
from scaledq.run.films import films, telling
from scaledq.run.folder import METRICS, WEIGHTS, Run, open_run, write_run
from scaledq.run.report import report
from scaledq.run.train import train


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Three seeds: one stopped before its first row, one never played, one that was."""
    folder = tmp_path_factory.mktemp("runs")
    rows = random_log("chain", 500, seed=0)
    with LogWriter(
        folder / "store",
        task("chain"),
        "log",
        behaviour="random",
        protocol=None,
        source={},
        versions={},
    ) as log:
        log.append(rows.frames, rows.action, rows.reward, rows.terminated, rows.truncated)
        log.finish()
    cfg = RunConfig(
        tasks=(task("chain").name,),
        stores=(str(folder / "store"),),
        objective=ScaledQL(),
        encoder=MLPConfig(widths=(8,)),
        neck=NeckConfig(embedding="none", width=8),
        transitions=Transitions(stack=1, n_step=1),
        protocol=Protocol(name="toy", step_cap=20),
        batch_size=8,
        steps=4,
        log_every=2,
    )
    stopped, unplayed, played = (train(replace(cfg, seed=s), folder / "runs") for s in range(3))
    for name in (METRICS, WEIGHTS):
        (stopped.folder / name).unlink()
    write_run(replace(stopped, facts={k: v for k, v in stopped.facts.items() if k != "weights"}))
    evaluate(played, episodes=2)
    return [open_run(run.folder) for run in (stopped, unplayed, played)]


def test_runs_that_were_not_played_are_shown_with_what_they_have(
    runs: list[Run], tmp_path: Path
) -> None:
    stopped, unplayed, played = runs
    page = report(runs, tmp_path / "page.html", videos=False).read_text()
    assert f"Not evaluated yet, so without scores: {stopped.name}, {unplayed.name}." in page
    assert page.count(unplayed.name) > page.count(stopped.name) > 1  # curves and health
    assert "unfinished" in page
    assert f"scaledq evaluate {played.folder}" in page  # it is the subject
    alone = report([played], tmp_path / "alone.html", videos=False).read_text()
    assert "Not evaluated yet" not in alone


def test_a_page_shows_play_and_what_the_policy_thought(runs: list[Run], tmp_path: Path) -> None:
    page = report([runs[2]], tmp_path / "page.html").read_text()
    assert page.count("data:video/mp4") == 1
    (clip,), remarks = films(runs[2])
    assert remarks == ()
    assert page.count("data:image/jpeg") == len(clip.stills) >= 1
    said = ", ".join(still.caption for still in clip.stills)
    for reason in ("most is expected", "least is expected", "the choice matters most"):
        assert said.count(reason) == 1
    still = np.asarray(Image.open(io.BytesIO(clip.stills[0].jpeg)).convert("RGB")).astype(int)
    screen = still[CAPTION : CAPTION + GAME[0], : GAME[0]]  # grey, but for what matters
    assert (screen[..., 0] - screen[..., 1]).max() > 60


def test_the_moments_that_tell_most_are_chosen() -> None:
    values = np.array([[0.0, 1.0], [2.0, 2.0], [-1.0, 1.5], [0.5, -np.inf]])
    blank = np.zeros((4, 4), np.uint8)
    moments = [Moment(blank, row, 0, 0.0, step) for step, row in enumerate(values)]
    assert telling(moments) == {
        1: "most is expected",
        2: "the choice matters most",
        3: "least is expected",
    }


def test_without_any_scores_it_says_what_to_do_and_writes_nothing(
    runs: list[Run], tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=r"no run has scores yet .*: scaledq evaluate "):
        report(runs[:2], tmp_path / "page.html", videos=False)
    assert not list(tmp_path.iterdir())
