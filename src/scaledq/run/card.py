"""What a policy file says of itself: enough to use it, and to know where it comes from.

The same JSON stands in every exported file, whatever its format; `describe` writes it for people.
"""

import json
from statistics import fmean

from pydantic import JsonValue

from scaledq.core.config import config, from_json, to_json
from scaledq.core.errors import RunError
from scaledq.core.protocol import Protocol
from scaledq.core.task import Task
from scaledq.play.score import read_scores
from scaledq.run.config import RunConfig
from scaledq.run.folder import SCORES, Run

KEY = "scaledq"
"""Under which files hold the card: ONNX metadata, the safetensors header, an extra file of .pt2."""
FORMAT = 1


@config
class MeanScore:
    """What the policy scored in one task, over whole episodes."""

    method: str
    task: str
    protocol: str
    episodes: int
    score: float
    """Mean of the raw returns."""


@config
class Card:
    """A policy's tasks, how it observes them and is meant to be played, and how it was made."""

    format: int = FORMAT
    run: str
    config: RunConfig
    """Without the stores' paths, which are nobody else's business."""
    tasks: tuple[Task, ...]
    facts: dict[str, JsonValue]
    """Digest of the data, transitions, parameters, versions, hardware."""
    scores: tuple[MeanScore, ...] = ()

    @property
    def stack(self) -> int:
        """S, the frames of an observation."""
        return self.config.transitions.stack

    @property
    def protocol(self) -> Protocol:
        return self.config.protocol


def card(run: Run) -> Card:
    """The card of a run, with the mean scores that it has been evaluated to."""
    path = run.folder / SCORES
    groups: dict[tuple[str, str, str], list[float]] = {}
    for row in read_scores(path) if path.exists() else []:
        groups.setdefault((row.method, row.task, row.protocol), []).append(row.score)
    return Card(
        run=run.name,
        config=run.config.placeless,
        tasks=run.tasks,
        facts=run.facts,
        scores=tuple(
            MeanScore(
                method=method, task=task, protocol=rules, episodes=len(seen), score=fmean(seen)
            )
            for (method, task, rules), seen in groups.items()
        ),
    )


def write_card(value: Card) -> str:
    """As JSON."""
    return to_json(value).decode()


def read_card(text: str | bytes | None, *, where: str) -> Card:
    """Inverse of `write_card`.

    Raises:
      RunError: there is no card, or it is of another version; the message names the file.
    """
    if not text:
        raise RunError(f"{where} was not made by `scaledq export`: it says nothing of its tasks")
    try:
        version = json.loads(text)["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{where}: its card is damaged; export the run again") from error
    if version != FORMAT:
        raise RunError(
            f"{where} has a card of format {version}, this version of scaledq reads {FORMAT}; "
            "export the run again"
        )
    return from_json(Card, text)


def describe(value: Card, file: str) -> str:
    """A model card in Markdown, with the front matter that model hubs read."""
    first, cfg = value.tasks[0], value.config
    shape = " x ".join(map(str, (value.stack, *first.frame_shape)))
    lines = [
        "---\nlibrary_name: scaledq\npipeline_tag: reinforcement-learning\ntags: [offline-rl]\n---",
        f"# {value.run}\n",
        f"One policy for {len(value.tasks)} task(s) with discrete actions, learnt offline "
        f"(`{cfg.objective.kind}`, encoder `{cfg.encoder.kind}`, seed {cfg.seed}, {cfg.steps:,} "
        f"steps of {cfg.batch_size}).\n",
        "## Use\n",
        "```python",
        "import scaledq",
        f'policy = scaledq.load_policy("{file}")',
        f'actions = policy(obs, task="{first.name}")',
        "```\n",
        f"`obs` is {first.frame_dtype} [B, {shape.replace(' x ', ', ')}]: the last {value.stack} "
        "frames, oldest first, zeros before an episode's start. Scaling, the heads and the masks "
        "of actions that a task lacks are inside the file.\n",
        "## Tasks\n",
        "| task | actions |\n|---|---|",
        *(f"| {task.name} | {task.actions} |" for task in value.tasks),
        "\n## Protocol\n",
        f"It is meant to be played under `{value.protocol.name}`: sticky actions "
        f"{value.protocol.sticky:g}, epsilon {value.protocol.epsilon:g}, at most "
        f"{value.protocol.step_cap:,} steps an episode, frame skip {value.protocol.frame_skip}. "
        "Scores under other rules are not comparable.\n",
        "## Scores\n",
        *_scores(value),
        "## Made from\n",
        "```json",
        json.dumps(value.facts, indent=2),
        "```\n",
        "## Limits\n",
        "It knows these tasks only, as its logs showed them. What it does in states that no log "
        "covers has not been checked. The licence of the data is the data owner's.",
    ]
    return "\n".join(lines) + "\n"


def _scores(value: Card) -> list[str]:
    if not value.scores:
        return ["It has not been evaluated.\n"]
    rows = [
        f"| {s.task} | {s.method} | {s.score:,.6g} | {s.episodes} | {s.protocol} |"
        for s in value.scores
    ]
    head = "| task | method | mean score | episodes | protocol |\n|---|---|---|---|---|"
    return [head, *rows, ""]
