"""What a run's policy scores when it plays, and what the behaviour in its logs scored."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from scaledq.core.atari import games
from scaledq.core.config import from_json, to_json
from scaledq.core.errors import TaskError, suggest
from scaledq.core.progress import Progress
from scaledq.core.protocol import Protocol
from scaledq.data.store import Log, Store
from scaledq.data.view import View
from scaledq.play.policy import Selection
from scaledq.play.rollout import play
from scaledq.play.score import ScoreRow, read_scores, write_scores
from scaledq.run.apart import Work, hastened, play_apart, processes_for
from scaledq.run.cluster import On, spread
from scaledq.run.folder import SCORES, Run, open_run

SEED = 1_000
"""Of evaluation, so that no episode repeats one that a recording with a small seed has seen."""


def evaluate(  # noqa: PLR0913  (what plays and how, what it plays and how often)
    run: Run,
    *,
    tasks: Sequence[str] = (),
    episodes: int = 16,
    protocol: Protocol | None = None,
    selection: Selection | None = None,
    keep: int | None = None,
    seed: int = SEED,
    on: On = "local",
) -> list[ScoreRow]:
    """Plays `episodes` whole episodes of each task and stores their rows in the run's scores.jsonl,
    task by task: what is stopped has lost the tasks that were under way, and no other.

    Rows of the same method, tasks, seed and protocol are replaced. Actions are chosen in the run's
    own way unless `selection` or `keep` say otherwise; then the rows are named after them, as are
    all of BC's: `bc (greedy)` or `bc (sampled)`, `dt (keep 1)`.

    Args:
      keep: of a transformer, see `SequencePolicy`.
      on: this machine, all tasks side by side; or a Ray cluster, each task by itself. Episodes are
        the same, but for ties that another batch rounds otherwise.

    Raises:
      TaskError: a task that the run was not trained on.
      ConfigError: a selection or a `keep` that the run does not allow, or a negative seed.
    """
    protocol = protocol or run.config.protocol
    known = run.config.known_tasks
    chosen = tuple(tasks) or known
    for task in chosen:
        if task not in known:
            raise TaskError(f"{run.name} knows no task {task!r}; {suggest(task, known)}")
        if chosen.count(task) > 1:
            raise TaskError(f"tasks: each once, got {', '.join(chosen)}")
    selection = selection or run.config.selection
    folder = str(run.folder.absolute())
    work = Work(folder, chosen, protocol, episodes, selection=selection, keep=keep, seed=seed)
    rows: list[ScoreRow] = []
    left = dict.fromkeys(chosen, episodes)
    label, total = f"play {method_name(run, selection, keep)}", len(chosen) * episodes
    with Progress(label, total, parts=lambda: standing(rows, chosen, episodes)) as bar:
        if on == "ray":
            how = (episodes, to_json(protocol), selection, keep, seed)
            pieces = {task: (work.folder, task, *how) for task in chosen}
            for _, answer in spread(_remote, pieces, gpu=0.25):
                new = TypeAdapter(list[ScoreRow]).validate_json(answer)
                rows += new
                _store(run, new)
                bar.show(len(rows))
            return rows
        for row in _play(run, work, processes_for(work, run.network)):
            rows.append(row)
            bar.show(len(rows))
            left[row.task] -= 1
            if not left[row.task]:
                _store(run, [other for other in rows if other.task == row.task])
    return rows


def standing(rows: Sequence[ScoreRow], tasks: Sequence[str], episodes: int) -> list[str]:
    """How many of its episodes each task has played so far, and their mean score."""
    scores: dict[str, list[float]] = {task: [] for task in tasks}
    for row in rows:
        scores[row.task].append(row.score)
    return [
        f"{task} {len(own)}/{episodes}" + (f"  {sum(own) / len(own):,.1f}" if own else "")
        for task, own in scores.items()
    ]


def _play(run: Run, work: Work, processes: int = 1) -> Iterator[ScoreRow]:
    method = method_name(run, work.selection, work.keep)
    policy = run.policy(selection=work.selection, keep=work.keep)
    how = {"episodes": work.episodes, "slots": work.slots, "seed": work.seed}
    with hastened(run.network):
        if processes > 1:
            episodes = play_apart(work, processes)
        else:
            episodes = play(policy, work.tasks, work.protocol, **how)
        for episode in episodes:
            yield ScoreRow.of(episode, run=run.name, method=method, protocol=work.protocol)


def _remote(
    folder: str,
    task: str,
    episodes: int,
    protocol: bytes,
    selection: Selection,
    keep: int | None,
    seed: int,
) -> bytes:
    """One task's episodes, on whatever machine this runs."""
    rules = from_json(Protocol, protocol)
    work = Work(folder, (task,), rules, episodes, selection=selection, keep=keep, seed=seed)
    rows = list(_play(open_run(folder), work))
    return TypeAdapter(list[ScoreRow]).dump_json(rows)


def _store(run: Run, rows: Sequence[ScoreRow]) -> None:
    """Puts the rows into scores.jsonl, in the place of older ones of the same evaluation."""
    path = run.folder / SCORES
    replaced = {(r.method, r.task, r.seed, r.protocol) for r in rows}
    kept = [r for r in _stored(path) if (r.method, r.task, r.seed, r.protocol) not in replaced]
    write_scores(path, [*kept, *rows])


def method_name(run: Run, selection: Selection, keep: int | None = None) -> str:
    """How score rows name what played: a decision's way is named where it is not the run's own."""
    kind, ways = run.config.method, []
    if selection != run.config.selection or kind == "bc":
        ways.append(selection)
    if keep not in (None, run.config.sequences.context - 1):
        ways.append(f"keep {keep}")
    return f"{kind} ({', '.join(ways)})" if ways else kind


def _stored(path: Path) -> list[ScoreRow]:
    return read_scores(path) if path.exists() else []


def episode_returns(log: Log) -> tuple[np.ndarray, np.ndarray]:
    """Raw return and length of each whole episode of a log, in time order: two [E] arrays."""
    ends = np.flatnonzero(log.terminated | log.truncated)
    starts = np.concatenate([[0], ends[:-1] + 1])
    # A closing observation follows its episode's end: the next episode starts after it.
    starts += (log.action[np.minimum(starts, len(log) - 1)] == -1).astype(starts.dtype)
    sums = np.concatenate([[0.0], np.cumsum(log.reward, dtype=np.float64)])
    return sums[ends + 1] - sums[starts], ends + 1 - starts


def behaviour_rows(
    stores: Sequence[Store], tasks: Sequence[str], view: View | None = None
) -> list[ScoreRow]:
    """The scores of the logs' own episodes, as rows of the method `behaviour`.

    Args:
      view: only episodes that end in the part of each log that it leaves.
    """
    rows = []
    for task in tasks:
        logs = [log for store in stores if task in store.tasks for log in store[task]]
        for slot, log in enumerate(logs):
            protocol = log.manifest.protocol
            name = protocol.name if protocol else "unknown"
            start, stop = (view or View()).piece(len(log))
            ends = np.flatnonzero(log.terminated | log.truncated)
            scores = zip(*episode_returns(log), ends, strict=True)
            for index, (score, length, end) in enumerate(scores):
                if not start <= end - length + 1 <= end < stop:
                    continue
                rows.append(
                    ScoreRow(
                        run=log.name,
                        method="behaviour",
                        task=task,
                        seed=slot,
                        episode=index,
                        score=float(score),
                        length=int(length),
                        protocol=name,
                    )
                )
    return rows


def normalised(task: str, score: float, reference: Mapping[str, float]) -> dict[str, float]:
    """A raw score with random play at 0: `human` and `DQN` (best published iteration, as Lee et
    al., 2022) at 1, and the `best in its data` where that is known of the run. Atari games in
    their default mode only: nobody has published random play of others.

    Args:
      reference: what `finetune` noted of the task in the run's facts; may be empty.
    """
    game = games().get(task)
    if game is None:
        return {}
    tops = {
        "human": game.human,
        "DQN": game.dqn_best,
        "best in its data": reference.get("data_best"),
    }
    spans = {name: top - game.random for name, top in tops.items() if top is not None}
    return {n: (score - game.random) / span for n, span in spans.items() if span > 0}
