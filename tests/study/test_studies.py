"""Studies at smoke scale, through the real code: trained, played, drawn, stopped, gone on.

Four of them by default, which between them have two panels, sources, fine-tuning, play and scaling;
all of them, and one on Ray, in some minutes, with SCALEDQ_STUDIES=all in the environment.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from scaledq.cli import main
from scaledq.core.errors import DataError, RunError
from scaledq.run.folder import SCORES, WEIGHTS, open_run
from scaledq.study.execute import Place, execute, found, perform, state
from scaledq.study.listing import listing
from scaledq.study.pages import Asked, draw_study, write_asked, write_results
from scaledq.study.paper import B4, STUDIES
from scaledq.study.plan import plan
from scaledq.study.results import gather, note_behaviour
from scaledq.study.scales import SMOKE


def asked(name: str, place: Place) -> Asked:
    return Asked(study=name, scale="smoke", seeds=(0,), runs=str(place.runs), stores=place.stores)


def stamps(place: Place) -> dict[str, int]:
    files = [f for name in (WEIGHTS, SCORES) for f in place.runs.glob(f"*/{name}")]
    return {str(file): file.stat().st_mtime_ns for file in files}


ROOT = Path(__file__).parents[2]
SHORT = ("fig5", "fig7", "figB1", "B.2")
ALL = os.environ.get("SCALEDQ_STUDIES") == "all"


@pytest.mark.parametrize("name", STUDIES if ALL else SHORT)
def test_a_study_runs_once_and_is_drawn(name: str, place: Place, tmp_path: Path) -> None:
    wanted = asked(name, place)
    if not wanted.plan.jobs:
        assert wanted.plan.lacking
        with pytest.raises(DataError, match="no arm is complete yet"):
            gather(wanted.plan, place)
        return
    assert execute(wanted.plan, place) == {}
    assert {state(key, wanted.plan, place) for key in wanted.plan.jobs} == {"done"}
    before = stamps(place)
    execute(wanted.plan, place)
    assert stamps(place) == before
    write_asked(wanted, tmp_path / name)
    page = draw_study(tmp_path / name, videos=name == "fig7", resamples=20).read_text()
    assert stamps(place) == before
    summary = (tmp_path / name / "summary.md").read_text()
    for entry in wanted.plan.entries:
        assert entry.arm.label in summary
    for label in wanted.plan.lacking:
        assert label in page
    for kind in wanted.plan.study.figures if wanted.plan.study.normal == "raw" else ():
        drawn = tmp_path / name / f"{kind}.svg"
        assert all(f"<!-- {arm.label} -->" in drawn.read_text() for arm in wanted.plan.study.arms)
        assert (tmp_path / name / f"{kind}.pdf").exists()
    write_results([tmp_path / name], tmp_path / "results.md")
    told = (tmp_path / "results.md").read_text()
    assert "scale `smoke`" in told
    for claim in wanted.plan.study.claims:
        assert told.count(f"| {name} | {claim.text} |") == 1
    assert told.count(": cannot be told") + told.count(": not run here") == len(
        wanted.plan.study.claims
    )


def test_scores_alone_tell_what_the_whole_runs_told_and_are_not_made_again(
    place: Place, logs: Path, tmp_path: Path
) -> None:
    """Runs and study move elsewhere; weights, checkpoints and logs stay behind."""
    for name in ("fig2", "fig8"):
        wanted = asked(name, place)
        execute(wanted.plan, place)
        note_behaviour(wanted.plan, place)
        write_asked(wanted, logs.parent / "told" / name)
        shutil.copytree(logs.parent / "told" / name, tmp_path / "told" / name)
    write_results(sorted((logs.parent / "told").iterdir()), tmp_path / "whole" / "results.md")
    for file in (*place.runs.glob("*.jsonl"), *place.runs.glob("*/*.json*")):
        kept = tmp_path / "runs" / file.relative_to(place.runs)
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, kept)
    write_results(sorted((tmp_path / "told").iterdir()), tmp_path / "kept" / "results.md")
    assert (tmp_path / "kept" / "results.md").read_text() == (
        tmp_path / "whole" / "results.md"
    ).read_text()
    assert "%" in (tmp_path / "kept" / "results.md").read_text()
    here = Place(tmp_path / "runs", (str(logs),))
    wanted = asked("fig8", here).plan
    assert execute(wanted, here) == {}
    assert not list(here.runs.glob(f"*/{WEIGHTS}"))
    key = next(key for key, job in wanted.jobs.items() if job.source)
    run = found(wanted.jobs[key], here)
    assert run is not None
    with pytest.raises(RunError, match="they were not kept"):
        run.policy()
    (run.folder / SCORES).unlink()
    assert execute(wanted, here) == {}
    source = wanted.jobs[key].source
    assert source is not None
    again = {file.parent.name for file in here.runs.glob(f"*/{WEIGHTS}")}
    assert again == {run.name, source.key}
    assert state(key, wanted, here) == "done"


def test_the_published_results_are_what_their_rows_say(tmp_path: Path) -> None:
    studies = sorted((ROOT / "results" / "studies").iterdir())
    logs = sorted(folder for folder in (ROOT / "logs").iterdir() if folder.is_dir())
    write_results([*studies, *logs], tmp_path / "results.md")
    assert (tmp_path / "results.md").read_text() == (ROOT / "docs" / "results.md").read_text()
    for picture in tmp_path.glob("*.svg"):
        assert (ROOT / "docs" / picture.name).exists()


def test_a_study_that_was_killed_goes_on_and_ends_as_if_it_had_not_been(
    logs: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "scaledq", "study", "B.4", "--scale", "smoke",
               "--store", logs, "--runs", tmp_path / "killed", "--out", tmp_path]  # fmt: skip
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(list(map(str, command)), env=env, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not list((tmp_path / "killed").glob(f"*/{SCORES}")) and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wanted = plan(B4, SMOKE, seeds=(0,))
    killed, whole = (Place(tmp_path / name, (str(logs),)) for name in ("killed", "whole"))
    done = [key for key in wanted.jobs if state(key, wanted, killed) == "done"]
    assert done
    before = {key: (killed.runs / key / WEIGHTS).stat().st_mtime_ns for key in done}
    for at in (killed, whole):
        execute(wanted, at)
    for key in wanted.jobs:
        for name in (WEIGHTS, SCORES):
            ours, theirs = ((at.runs / key / name).read_bytes() for at in (killed, whole))
            assert ours == theirs
    assert all((killed.runs / key / WEIGHTS).stat().st_mtime_ns == before[key] for key in done)


@pytest.mark.skipif(not ALL, reason="SCALEDQ_STUDIES=all; tests/run/test_cluster.py has the rest")
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_study_on_ray_is_the_study_here(place: Place, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    wanted = plan(B4, SMOKE, seeds=(0,))
    away = replace(place, runs=tmp_path / "away")
    execute(wanted, place)
    try:
        assert execute(wanted, away, on="ray") == {}
    finally:
        ray.shutdown()
    for key in wanted.jobs:
        for name in (WEIGHTS, SCORES):
            assert (away.runs / key / name).read_bytes() == (place.runs / key / name).read_bytes()


def test_the_listing_says_what_is_done_and_what_it_costs(place: Place) -> None:
    wanted = plan(B4, SMOKE, seeds=(0,))
    perform(next(iter(wanted.jobs)), wanted, place)
    more = plan(B4, SMOKE, seeds=(0, 1))
    said = listing(more, place)
    assert "alpha 0.05" in said
    run = open_run(place.runs / next(iter(wanted.jobs)))
    assert f"{run.facts['parameters'] / 1000:.3g}k" in said
    assert "  done" in said
    assert "  to do" in said
    assert not (place.runs / list(more.jobs)[-1]).exists()


def test_a_run_that_cannot_be_played_in_full_does_not_count(place: Place) -> None:
    wanted = plan(B4, SMOKE, seeds=(0,))
    execute(wanted, place)
    longer = replace(wanted, scale=replace(SMOKE, episodes=3))
    key = next(iter(longer.jobs))
    assert state(key, longer, place) == "to play"
    with pytest.raises(DataError, match="no arm is complete"):
        gather(longer, place)


def test_missing_data_names_the_command_that_makes_it(logs: Path, tmp_path: Path) -> None:
    wanted = plan(B4, SMOKE, seeds=(0,))
    for stores, says in (
        ((), "needs --store DIR"),
        ((str(tmp_path / "nowhere"),), "no store at"),
        ((str(logs),), "no logs of Qbert"),
    ):
        tasks = ("Qbert",) if stores == (str(logs),) else ("Pong",)
        scale = replace(SMOKE, run=replace(SMOKE.run, tasks=tasks))
        wanted = plan(B4, scale, seeds=(0,))
        with pytest.raises(DataError, match=f"{says}.*made by: scaledq collect"):
            execute(wanted, Place(tmp_path / "runs", stores))
    assert not (tmp_path / "runs").exists()


def test_rows_of_unequal_protocols_are_refused_with_both_named(
    place: Place, tmp_path: Path
) -> None:
    from scaledq.report.scores import group

    wanted = plan(B4, SMOKE, seeds=(0,))
    execute(wanted, place)
    lines = [(place.runs / key / SCORES).read_text().splitlines()[0] for key in wanted.jobs]
    rows = [json.loads(line) for line in lines]
    rows[1] |= {"protocol": "scaled-ql", "method": "other"}
    with pytest.raises(DataError, match=r"unequal protocols.*'smoke'.*'scaled-ql'"):
        group(rows)


def test_a_folder_that_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a study's folder"):
        draw_study(tmp_path)
    (tmp_path / "study.json").write_bytes(
        b'{"study": "fig99", "scale": "smoke", "seeds": [0], "runs": "r", "stores": []}'
    )
    with pytest.raises(RunError, match="unknown study 'fig99'"):
        draw_study(tmp_path)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("fig99",), "unknown study 'fig99'; did you mean fig"),
        (("table1", "--scale", "mnii"), "did you mean mini"),
        (
            ("table1", "--scale", "smoke"),
            "needs --store DIR; its logs are made by: scaledq collect",
        ),
        (("table1", "--scale", "smoke", "--seeds", "-1"), "--seeds: need at least 1"),
        (("table1", "--scale", "smoke", "--store", "nowhere", "--dry-run"), "no store at nowhere"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    words: tuple[str, ...],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(["study", *words])
    said = capsys.readouterr().err
    assert left.value.code == 1
    assert said.startswith("scaledq: error: ")
    assert says in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_dry_run_lists_and_leaves_nothing(
    logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["study", "table1", "--scale", "smoke", "--store", str(logs), "--dry-run"])
    said = capsys.readouterr().out
    assert said.count("to do") == 4
    assert "4 runs, 0 done; about" in said
    assert not list(tmp_path.iterdir())
