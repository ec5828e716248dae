"""What a report says in sentences; no sentence claims more than the intervals allow."""

from collections.abc import Mapping, Sequence

from scaledq.core.protocol import SCALED_QL, Protocol
from scaledq.report.content import ReportData
from scaledq.report.scores import BEHAVIOUR, RANDOM, Normal, is_atari
from scaledq.report.stats import Estimate
from scaledq.report.tables import Column, text

RULES = {
    "sticky": "sticky actions {}",
    "epsilon": "epsilon {}",
    "step_cap": "episodes cut after {} steps",
    "frame_skip": "frame skip {}",
    "noop_max": "up to {} no-op steps at the start",
}
"""Fields of a protocol, in words."""


MANY = 7
"""Methods that a headline names, at most."""


def headline(subject: str, iqms: Mapping[str, Estimate], *, score: str, tasks: int) -> str:
    """The result: the subject's IQM against the others', above or below if no intervals touch.

    Of more than a few methods it says how many, not which.
    """
    ours = iqms[subject]
    over = "the only task" if tasks == 1 else f"{tasks} tasks"
    begin = f"{subject}'s {score} IQM over {over} is {_estimate(ours)}"
    sides: dict[str, list[str]] = {"above": [], "below": [], "level": []}
    for label, theirs in iqms.items():
        if label != subject:
            lower = "below" if ours.high < theirs.low else "level"
            side = "above" if ours.low > theirs.high else lower
            sides[side].append(f"{label} {_estimate(theirs)}")
    said = {
        "above": "it lies above",
        "below": "it lies below",
        "level": "its interval overlaps with that of",
    }
    if len(iqms) > MANY:
        sides = {side: [f"{len(names)} others"] for side, names in sides.items() if names}
    clauses = [f"{said[side]} {listed(names)}" for side, names in sides.items() if names]
    return f"{begin}: {'; '.join(clauses)}." if clauses else f"{begin}."


def meaning(data: ReportData, normal: Normal) -> str:
    """What 0, 1 and the brackets are."""
    one = {"human": "a human tester", "dqn": "DQN's best iteration", "behaviour": "the behaviour"}
    drawn: dict[str, list[str]] = {}
    for method in data.methods:
        drawn.setdefault(data.scores.resampled(method), []).append(data.label(method))
    told = "; ".join(f"{unit} ({', '.join(labels)})" for unit, labels in drawn.items())
    words = (
        f"0 is random play, 1 is {one[normal]}; IQM is the mean of the middle half. Brackets are "
        f"95 % stratified bootstrap intervals over, for each task, {told}."
    )
    trained = [m for m in data.methods if m not in data.scores.recorded]
    if any(len(data.scores.runs(m)) == 1 for m in trained):
        words += " Where episodes of one run are resampled, they do not cover other training seeds."
    return words


def differences(protocol: Protocol) -> list[str]:
    """Where `protocol` departs from the paper's; empty where it does not."""
    out = []
    for name, phrase in RULES.items():
        ours, paper = getattr(protocol, name), getattr(SCALED_QL, name)
        if ours != paper:
            out.append(f"{phrase.format(f'{ours:,g}')} (paper: {paper:,g})")
    return out


def warning(data: ReportData) -> str:
    """That Atari scores are not comparable with published ones, and why; empty where they are."""
    found = differences(data.protocol)
    if not found or not any(is_atari(task) for task in data.scores.tasks):
        return ""
    return (
        f"Played under protocol {data.protocol.name}, which is not the paper's: {listed(found)}. "
        "Do not compare these scores with published ones."
    )


def recordings(data: ReportData) -> list[str]:
    """A sentence for each recorded method: under which rules, if other than the page's."""
    return [
        f"{data.label(method)}: scores of the logs' own episodes, recorded under "
        f"{listed(sorted(names))}, where it acts by its own randomness (no epsilon is added)."
        for method, names in data.scores.recorded.items()
    ]


def without_normal() -> str:
    """Why a page has raw scores alone."""
    return (
        "Raw scores only: some task has no published human score, and no scores of both "
        f"{RANDOM} play and a {BEHAVIOUR} that beats it to normalise by."
    )


def listed(items: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(items[:-1]), items[-1]]))


def _estimate(estimate: Estimate) -> str:
    return text(estimate, Column("", digits=3))
