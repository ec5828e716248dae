"""Plans are pure; equal runs are one job; what cannot run is said, not left out."""

from dataclasses import replace

import pytest

from scaledq.core.errors import ConfigError
from scaledq.data.view import First
from scaledq.study.paper import (
    FIG2,
    FIG5,
    FIG6,
    FIG7,
    FIG8,
    FIGB1,
    NEW_GAMES,
    STUDIES,
    TABLE1,
)
from scaledq.study.plan import Job, plan
from scaledq.study.recipes import RECIPES
from scaledq.study.scales import MINI, MINI_TASKS, PAPER, SCALES, SMOKE
from scaledq.study.spec import Arm, Claim, Scale, Study

every_scale = pytest.mark.parametrize("scale", SCALES.values(), ids=lambda scale: scale.name)


@every_scale
@pytest.mark.parametrize("study", STUDIES.values(), ids=lambda study: study.name)
def test_a_plan_is_pure_and_complete(study: Study, scale: Scale) -> None:
    first, second = (plan(study, scale, seeds=(0, 1)) for _ in range(2))
    assert list(first.jobs) == list(second.jobs)
    assert all(first.jobs[key].config == second.jobs[key].config for key in first.jobs)
    planned = {entry.arm.label for entry in first.entries}
    assert planned | set(first.lacking) == {arm.label for arm in study.arms}
    keys = list(first.jobs)
    for key, job in first.jobs.items():
        assert job.config.stores == ()
        if job.source:
            assert keys.index(job.source.key) < keys.index(key)


@every_scale
def test_studies_share_their_runs(scale: Scale) -> None:
    table1, fig6, fig2, fig5 = (
        set(plan(study, scale, seeds=(0, 1, 2)).jobs) for study in (TABLE1, FIG6, FIG2, FIG5)
    )
    assert len(table1) == 12
    assert table1 < fig6
    assert fig2 <= fig5


def test_the_papers_arms_are_the_papers_runs() -> None:
    found = plan(FIG2, PAPER, seeds=(0,))
    (ours,) = [job for key, job in found.jobs.items() if "Scaled QL" in found.arms(key)]
    assert ours.config.view.rows == First(fraction=0.2)
    assert replace(ours.config, view=PAPER.run.view) == PAPER.run
    near = [e for e in plan(FIG5, PAPER, seeds=(0,)).entries if e.arm.panel == "near-optimal"]
    assert [e.jobs for e in near if e.arm.label == "Scaled QL"] == [(PAPER.run.folder,)]


def test_fine_tuning_is_a_run_for_each_game_that_starts_from_the_pre_trained_one() -> None:
    found = plan(FIG7, MINI, seeds=(0,))
    entries = {entry.arm.label: entry for entry in found.entries}
    jobs = [found.jobs[key] for key in entries["Scaled QL"].jobs]
    assert [job.config.tasks for job in jobs] == [(task,) for task in MINI.held_out]
    for job in jobs:
        assert job.source is not None
        assert job.source.config == MINI.run
        assert job.config.view == MINI.held_out_view
    scratch = [found.jobs[key] for key in entries["Scaled QL (scratch)"].jobs]
    assert all(job.source is None for job in scratch)
    assert {
        job.config.steps for key, job in found.jobs.items() if job.config.tasks != MINI.run.tasks
    } == {MINI.tuning}
    frozen = [found.jobs[key] for key in entries["Scaled QL (frozen)"].jobs]
    assert all(job.config.start.frozen for job in frozen)
    assert found.selections(jobs[0].source.key if jobs[0].source else "") == ()


def test_the_paper_fine_tunes_from_logs_for_a_hundred_thousand_updates() -> None:
    found = plan(FIG7, PAPER, seeds=(0,))
    tuned = [j.config for j in found.jobs.values() if j.config.tasks != PAPER.run.tasks]
    assert {cfg.steps for cfg in tuned} == {100_000}
    assert {cfg.objective.kind for cfg in tuned} >= {"scaled_ql", "dt", "bc"}


def jobs_of(study: Study, label: str) -> list[Job]:
    found = plan(study, MINI, seeds=(0,))
    return [found.jobs[key] for e in found.entries if e.arm.label == label for key in e.jobs]


def test_remedies_start_from_what_each_of_them_needs() -> None:
    """The variants are of Freeway and Breakout, whose heads WSRL takes; RLPD mixes in old logs."""
    for job, game in zip(jobs_of(FIGB1, "WSRL"), ("Freeway", "Breakout"), strict=True):
        assert (job.config.start.parts, job.config.start.head) == ("all", game)
    for job in jobs_of(FIGB1, "RLPD") + jobs_of(NEW_GAMES, "RLPD"):
        assert job.config.logged == MINI_TASKS
        assert (job.config.start.parts, job.config.start.head) == ("all", "")
    for job in jobs_of(FIGB1, "encoder thawed"):
        assert (job.config.start.parts, job.config.start.frozen) == ("encoder", True)
    (calibrated, *_) = jobs_of(NEW_GAMES, "Cal-QL")
    assert calibrated.source is not None
    assert calibrated.source.config == RECIPES["scaled_ql_calibrated"](MINI)
    assert [job.config.tasks for job in jobs_of(NEW_GAMES, "Scaled QL")] == [
        (task,) for task in MINI.held_out
    ]


def test_figure_8s_runs_are_among_those_of_its_curves() -> None:
    assert set(plan(FIG8, MINI, seeds=(0,)).jobs) < set(plan(FIGB1, MINI, seeds=(0,)).jobs)


def test_an_arm_without_a_recipe_is_named() -> None:
    study = Study(name="s", title="", question="", arms=(
        Arm(label="known", recipe="bc"), Arm(label="new", recipe="perceiver"),
        Arm(label="lent", recipe="bc", start="perceiver"),
    ))  # fmt: skip
    found = plan(study, SMOKE, seeds=(0,))
    assert found.lacking == {"new": "perceiver", "lent": "perceiver"}
    assert [e.arm.label for e in found.entries] == ["known"]
    more = plan(study, SMOKE, seeds=(0,), recipes=RECIPES | {"perceiver": RECIPES["iql"]})
    assert not more.lacking


def test_a_study_that_contradicts_itself_is_refused() -> None:
    arm = Arm(label="a", recipe="bc")
    with pytest.raises(ConfigError, match="two arms are 'a'"):
        Study(name="s", title="", question="", arms=(arm, arm))
    claim = Claim(text="", better="a", worse="b", source="")
    with pytest.raises(ConfigError, match="no arm 'b'"):
        Study(name="s", title="", question="", arms=(arm,), claims=(claim,))
    with pytest.raises(ConfigError, match="no recipe"):
        Arm(label="a", start="bc")
    with pytest.raises(ConfigError, match="at least one seed"):
        plan(TABLE1, SMOKE, seeds=())


def test_what_the_paper_prints() -> None:
    def printed(name: str) -> dict[str, float]:
        arms = STUDIES[name].arms
        return {f"{a.panel} {a.label}": a.published.value for a in arms if a.published}

    assert printed("fig5") == {
        "near-optimal DT (200M)": 1.118, "near-optimal Scaled QL": 1.141,
        "near-optimal Behaviour policy": 0.935, "sub-optimal DT (200M)": 0.306,
        "sub-optimal Scaled QL": 0.778, "sub-optimal Behaviour policy": 0.51,
    }  # fmt: skip
    assert [round(value, 3) for value in printed("table1").values()] == [0.411, 0.535, 0.595, 0.989]
    assert [round(v, 3) for v in printed("table2").values()] == [
        0.509, 0.78, 0.739, 0.835, 0.804, 0.98,
    ]  # fmt: skip
