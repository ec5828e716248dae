"""What a network still knows of its old tasks after it was fine-tuned to another one."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from scaledq.core.atari import games
from scaledq.core.errors import RunError
from scaledq.core.files import write_atomic
from scaledq.run.evaluate import evaluate
from scaledq.run.folder import Run

FORGETTING = "forgetting.json"


@dataclass(frozen=True, slots=True)
class Change:
    """Mean raw scores of one task, before and after."""

    task: str
    before: float
    after: float
    human_normalised: tuple[float, float] | None
    """The same with random play at 0 and a human at 1, where published."""

    @property
    def lost(self) -> float:
        """The share of the score before that is gone; negative where it was gained."""
        return (self.before - self.after) / abs(self.before) if self.before else 0.0


def forgetting(before: Run, after: Run, *, episodes: int = 16) -> list[Change]:
    """Plays the tasks that both runs know: same protocol (of `after`), same seeds of episodes.

    The scores go to each run's own scores.jsonl, the comparison to forgetting.json of `after`.

    Raises:
      RunError: the runs have no task in common.
    """
    common = [t for t in after.config.known_tasks if t in before.config.known_tasks]
    if not common:
        raise RunError(
            f"{after.name} knows no task of {before.name}: fine-tune with --keep or --replay"
        )
    protocol = after.config.protocol
    means = [_means(run, common, episodes=episodes, protocol=protocol) for run in (before, after)]
    changes = [
        Change(task, old, new, _human(task, old, new))
        for task, old, new in zip(common, *means, strict=True)
    ]
    content = {
        "before": before.name,
        "after": after.name,
        "episodes": episodes,
        "protocol": protocol.name,
        "tasks": [{**asdict(change), "lost": change.lost} for change in changes],
    }
    write_atomic(after.folder / FORGETTING, json.dumps(content, indent=2) + "\n")
    return changes


def _means(run: Run, tasks: Sequence[str], **how: object) -> list[float]:
    rows = evaluate(run, tasks=tasks, **how)  # pyright: ignore[reportArgumentType]
    return [float(np.mean([row.score for row in rows if row.task == task])) for task in tasks]


def _human(task: str, before: float, after: float) -> tuple[float, float] | None:
    game = games().get(task)
    if game is None or game.human <= game.random:
        return None
    span = game.human - game.random
    return (before - game.random) / span, (after - game.random) / span
