"""From run folders to one page: gathers what runs left on disk and hands it to `report`."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from scaledq.core.config import fingerprint, to_json
from scaledq.core.errors import DataError, RunError
from scaledq.core.files import write_atomic
from scaledq.core.protocol import PRESETS, Protocol
from scaledq.data.store import open_store
from scaledq.learn.health import HEALTHY, advise
from scaledq.play.score import ScoreRow, label, read_scores
from scaledq.report.content import Health, ReportData
from scaledq.report.page import page
from scaledq.report.scores import group
from scaledq.run.evaluate import behaviour_rows
from scaledq.run.films import films
from scaledq.run.folder import SCORES, Run

LABELS = {
    "scaled_ql": "Scaled QL",
    "bc (greedy)": "BC, greedy",
    "bc (sampled)": "BC, sampled",
    "bc": "BC",
    "dt": "Decision transformer",
    "dt (greedy)": "Decision transformer, greedy",
    "dt (notebook)": "Decision transformer, released rule",
    "bc_transformer": "BC transformer",
    "bc_transformer (greedy)": "BC transformer, greedy",
    "behaviour": "Behaviour",
    "online_c51": "Online C51",
    "online_mse": "Online DQN",
}


def report(runs: Sequence[Run], out: Path, *, videos: bool = True, protocol: str = "") -> Path:
    """Writes the page about `runs` to `out`; the first of them that was played is its subject.

    Runs without scores (they train, or nobody let them play) have curves and health only, and the
    page names them. Runs that differ in their seed alone are one method; others of one objective
    stand under their own names.

    Args:
      protocol: how score rows name it. Of a run that was scored under several, only its rows are
        shown; by default the subject's own, or else the last that it was scored under.

    Raises:
      RunError: no run has scores (evaluate one first), or the subject has none of that protocol.
      DataError: runs scored under unequal protocols.
    """
    if not runs:
        raise RunError("a report needs at least one run; give folders of `scaledq train`")
    scores = {run.folder: _scores(run) for run in runs}
    runs = sorted(runs, key=lambda run: not scores[run.folder])
    subject, lacking = runs[0], [run.name for run in runs if not scores[run.folder]]
    if not scores[subject.folder]:
        raise RunError(
            f"no run has scores yet ({', '.join(lacking)}); play one first: "
            f"scaledq evaluate {subject.folder}"
        )
    rules = _rules(subject, scores[subject.folder], protocol)
    methods = _methods(runs)
    played, others = [], set[str]()
    for run in runs:
        rows = scores[run.folder]
        shown = [row for row in rows if row.protocol == rules] or rows
        others |= {row.protocol for row in rows} - {row.protocol for row in shown}
        kind, name = run.config.method, methods[run.folder]
        played += [replace(row, method=row.method.replace(kind, name, 1)) for row in shown]
    recorded, remarks = _recorded(subject)
    if others:
        remarks += (f"There are scores under {', '.join(sorted(others))} too, not shown here.",)
    if lacking:
        remarks += (f"Not evaluated yet, so without scores: {', '.join(lacking)}.",)
    clips, unfilmed = films(subject) if videos else ((), ())
    data = ReportData(
        title=f"Scaled Q-learning on {len(subject.tasks)} tasks",
        scores=group([asdict(row) for row in played + recorded]),
        subject=played[0].method,
        protocol=_protocol(subject, played[0]),
        facts=_facts(runs),
        labels=LABELS,
        curves={_named(run, runs): run.metrics for run in runs},
        health=tuple(number for run in runs for number in health_of(run, _named(run, runs))),
        videos=clips,
        commands=_commands(runs),
        remarks=remarks + unfilmed,
    )
    write_atomic(out, page(data))
    return out


def _rules(run: Run, rows: Sequence[ScoreRow], asked: str) -> str:
    """Under which protocol a page shows the scores of its subject."""
    known = list(dict.fromkeys(row.protocol for row in rows))
    if asked and asked not in known:
        raise RunError(
            f"{run.name} has no scores under {asked!r}, only under {', '.join(known)}; make them "
            f"with: scaledq evaluate {run.folder} --protocol {asked}"
        )
    own = label(run.config.protocol)
    return asked or (own if own in known else known[-1])


def _methods(runs: Sequence[Run]) -> dict[Path, str]:
    """What each run's rows call it: its objective, or, where others of that objective differ in
    more than their seed, the first run that differs from it in no more."""
    firsts: dict[str, dict[str, str]] = {}
    for run in runs:
        firsts.setdefault(run.config.method, {}).setdefault(_seedless(run), run.name)
    return {
        run.folder: run.config.method if len(found) == 1 else found[_seedless(run)]
        for run in runs
        for found in [firsts[run.config.method]]
    }


def _seedless(run: Run) -> str:
    return fingerprint(replace(run.config, seed=0))


def _scores(run: Run) -> list[ScoreRow]:
    path = run.folder / SCORES
    return read_scores(path) if path.exists() else []


def _recorded(run: Run) -> tuple[list[ScoreRow], tuple[str, ...]]:
    """The scores of the logs' own episodes; without the logs, a remark that they are lacking."""
    try:
        stores = [open_store(path) for path in run.config.stores]
        return behaviour_rows(stores, run.config.tasks), ()
    except DataError as error:
        return [], (f"The behaviour's scores are lacking: {error}.",)


def _protocol(run: Run, row: ScoreRow) -> Protocol:
    if row.protocol == label(run.config.protocol):
        return run.config.protocol
    if row.protocol in PRESETS:
        return PRESETS[row.protocol]
    raise RunError(f"{run.name}: nothing is known of protocol {row.protocol!r}; evaluate it again")


def _named(run: Run, runs: Sequence[Run]) -> str:
    """A run's label: its objective's, and its own name where several share the objective."""
    kind = run.config.method
    alone = sum(other.config.method == kind for other in runs) == 1
    return LABELS.get(kind, kind) if alone else run.name


def _facts(runs: Sequence[Run]) -> dict[str, str]:
    first = runs[0]
    facts = {"Tasks": ", ".join(first.config.tasks)}
    transitions = first.facts.get("transitions", [])
    facts["Transitions a task"] = ", ".join(f"{n:,}" for n in transitions)
    for run in runs:
        taken = f"{run.facts.get('seconds', 0) / 60:.1f} minutes" if run.finished else "unfinished"
        facts[_named(run, runs)] = (
            f"{run.facts['parameters']:,} parameters, {run.config.steps:,} steps of "
            f"{run.config.batch_size}, {taken}"
        )
    facts["Hardware"] = first.facts["hardware"]
    facts["Versions"] = ", ".join(f"{k} {v}" for k, v in first.facts["versions"].items())
    return facts


def health_of(run: Run, named: str) -> list[Health]:
    """The last logged value of every number that has a healthy range."""
    last: dict[str, float] = {}
    for row in run.metrics:
        last |= {name: value for name, value in row.items() if name in HEALTHY}
    out = []
    for name, value in last.items():
        usual = HEALTHY[name]
        advice = usual.advice if advise({name: value}) else ""
        span = f"{usual.low:g} to {usual.high:g}"
        out.append(Health(named, name, value, usual=span, advice=advice))
    return out


def _commands(runs: Sequence[Run]) -> tuple[str, ...]:
    config = json.loads(to_json(runs[0].config))
    folders = " ".join(str(run.folder) for run in runs)
    return (
        f"# every field of {runs[0].name} is in its run.json; seed {config['seed']}",
        f"scaledq evaluate {runs[0].folder} --protocol {runs[0].config.protocol.name}",
        f"scaledq report {folders} --out report.html",
    )
