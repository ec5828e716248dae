"""The page about runs of which some were never played. On a toy."""

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scaledq.cli import main
from scaledq.core.errors import RunError
from scaledq.core.protocol import QUICK, Protocol
from scaledq.data.loader import Transitions
from scaledq.data.writer import LogWriter
from scaledq.learn.objective import ScaledQL
from scaledq.nets.head import NeckConfig
from scaledq.nets.mlp import MLPConfig
from scaledq.play.moment import Moment
from scaledq.play.picture import CAPTION, GAME
from scaledq.play.toy import random_log, task
from scaledq.report.content import ReportData
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


def scored(runs: list[Run], folder: Path, **changes: object) -> Run:
    """Another finished run like the last of these, with scores of its own."""
    cfg = replace(runs[2].config, **changes)  # pyright: ignore[reportArgumentType]
    run = train(cfg, folder)
    evaluate(run, episodes=2)
    return open_run(run.folder)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[ReportData]:
    """What pages are made of."""
    data: list[ReportData] = []
    monkeypatch.setattr("scaledq.run.report.page", lambda one: str(data.append(one)))
    return data


def test_runs_of_one_config_are_seeds_and_others_stand_by_themselves(
    runs: list[Run], told: list[ReportData], tmp_path: Path
) -> None:
    other_seed = scored(runs, tmp_path, seed=7)
    longer = scored(runs, tmp_path, steps=6)
    for shown in ([runs[2], other_seed], [runs[2], longer], [runs[2], longer, other_seed]):
        report(shown, tmp_path / "page.html", videos=False)
    alike, unlike, three = (data.scores for data in told)
    assert alike.runs("scaled_ql") == (runs[2].name, other_seed.name)
    assert [unlike.runs(run.name) for run in (runs[2], longer)] == [(runs[2].name,), (longer.name,)]
    assert three.runs(runs[2].name) == (runs[2].name, other_seed.name)
    assert [data.subject for data in told] == ["scaled_ql", runs[2].name, runs[2].name]


def test_of_scores_under_two_protocols_the_runs_own_or_the_asked_ones_are_shown(
    runs: list[Run], told: list[ReportData], tmp_path: Path
) -> None:
    run = scored(runs, tmp_path, seed=8)
    evaluate(run, episodes=3, protocol=QUICK)
    for protocol in ("", "quick"):
        report([run], tmp_path / "page.html", videos=False, protocol=protocol)
    counts = [len(data.scores.column("scaled_ql", "toy:chain")) for data in told]
    assert counts == [2, 3]
    for data, other in zip(told, ("quick", "toy"), strict=True):
        assert f"There are scores under {other} too, not shown here." in data.remarks
    with pytest.raises(RunError, match=r"no scores under 'dqn-replay', only under toy, quick"):
        report([run], tmp_path / "none.html", videos=False, protocol="dqn-replay")


def test_a_page_that_cannot_be_written_is_one_line(
    runs: list[Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "page.html").mkdir()
    with pytest.raises(SystemExit) as ended:
        main(["report", str(runs[2].folder), "--out", str(tmp_path / "page.html")])
    assert ended.value.code == 1
    assert re.search(
        r"^scaledq: error: .*page.html: Is a directory; check", capsys.readouterr().err
    )


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
