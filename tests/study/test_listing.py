"""`study --dry-run`: what it counts as done, and what it says of logs that are not there."""

import re
import shutil
from pathlib import Path

import pytest

from scaledq.core.errors import DataError
from scaledq.run.folder import SCORES, WEIGHTS
from scaledq.study.execute import Place, execute, found, state
from scaledq.study.listing import listing
from scaledq.study.paper import B4, FIG7, FIG8
from scaledq.study.plan import Plan, plan
from scaledq.study.scales import SMOKE


def copied(asked: Plan, place: Place, runs: Path, *, weights: bool = True) -> Place:
    """The plan's runs, trained and played, elsewhere; without weights, what tells of them."""
    execute(asked, place)
    for file in place.runs.glob("*/*"):
        if file.suffix in (".json", ".jsonl") or (weights and file.name == WEIGHTS):
            (runs / file.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, runs / file.parent.name)
    return Place(runs, place.stores)


def test_logs_that_are_lacking_are_named_with_the_command_that_makes_them(
    smoke_store: Path, tmp_path: Path
) -> None:
    asked, makes = plan(FIG7, SMOKE, seeds=(0,)), f"made by: {SMOKE.data[0]}"
    said = listing(asked, Place(tmp_path / "runs", (str(smoke_store),)))
    assert said.count("  to do") == len(asked.jobs)
    assert (
        f"\n{smoke_store} has no logs of Breakout, which study fig7 needs at scale smoke; " in said
    )
    assert said.endswith(makes)
    said = listing(asked, Place(tmp_path / "runs"))
    assert f"study fig7 at scale smoke needs --store DIR; its logs are {makes}" in said
    with pytest.raises(DataError, match=f"no store at .*{re.escape(makes)}"):
        listing(asked, Place(tmp_path / "runs", (str(tmp_path / "nowhere"),)))


def test_logs_that_are_there_are_not_spoken_of(place: Place) -> None:
    assert "made by" not in listing(plan(B4, SMOKE, seeds=(0,)), place)


def test_a_run_that_has_still_to_play_is_not_done(place: Place, tmp_path: Path) -> None:
    asked = plan(B4, SMOKE, seeds=(0,))
    here = copied(asked, place, tmp_path / "runs")
    assert "2 runs, 2 done; about 0 hours" in listing(asked, here)
    (here.runs / next(iter(asked.jobs)) / SCORES).unlink()
    assert "2 runs, 1 done, 1 to play; about 0 hours" in listing(asked, here)


def test_an_episode_that_is_told_twice_is_one_episode(place: Place, tmp_path: Path) -> None:
    asked = plan(B4, SMOKE, seeds=(0,))
    here = copied(asked, place, tmp_path / "runs")
    key = next(iter(asked.jobs))
    path = here.runs / key / SCORES
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(2 * lines))
    assert state(key, asked, here) == "done"
    path.write_text("".join(2 * lines[:-1]))
    assert state(key, asked, here) == "to play"


def test_weights_that_were_not_kept_are_trained_again_where_something_starts_from_them(
    place: Place, tmp_path: Path
) -> None:
    asked = plan(FIG8, SMOKE, seeds=(0,))
    here = copied(asked, place, tmp_path / "runs", weights=False)
    runs = len(asked.jobs)
    assert f"{runs} runs, {runs} done; about 0 hours" in listing(asked, here)
    key = next(key for key, job in asked.jobs.items() if job.source)
    run, source = found(asked.jobs[key], here), asked.jobs[key].source
    assert run is not None
    assert source is not None
    (run.folder / SCORES).unlink()
    again = {key, source.key}
    assert {k for k in asked.jobs if state(k, asked, here) == "to train again"} == again
    said = listing(asked, here)
    assert said.count("  to train again") == 2
    assert f"{runs} runs, {runs - 2} done; about " in said
    assert "about 0 hours" not in said
    assert execute(asked, here) == {}
    assert {path.parent.name for path in here.runs.glob(f"*/{WEIGHTS}")} == {run.name, source.key}
    assert f"{runs} runs, {runs} done; about 0 hours" in listing(asked, here)
