"""What was scored, as rows of scores.jsonl: one episode a line."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scaledq.core import journal
from scaledq.core.config import adapter, config, fingerprint, from_json
from scaledq.core.errors import ConfigError, RunError
from scaledq.core.files import write_atomic
from scaledq.core.protocol import PRESETS, Protocol
from scaledq.play.rollout import Episode


@config
class ScoreRow:
    """One episode's raw score, and who played it under which rules."""

    run: str
    method: str
    """What the report compares: `scaled_ql`, `bc (greedy)`, `behaviour`."""
    task: str
    seed: int
    """Of the evaluation, or the slot of a recording."""
    episode: int
    score: float
    length: int
    protocol: str
    """Its name; see `label`."""

    @classmethod
    def of(cls, episode: Episode, *, run: str, method: str, protocol: Protocol) -> "ScoreRow":
        return cls(
            run=run,
            method=method,
            task=episode.task,
            seed=episode.seed,
            episode=episode.number,
            score=episode.score,
            length=episode.length,
            protocol=label(protocol),
        )


def label(protocol: Protocol) -> str:
    """How rows name a protocol: a preset whose rules were changed is not called by its name."""
    known = PRESETS.get(protocol.name, protocol)
    return protocol.name if known == protocol else f"{protocol.name}-{fingerprint(protocol)}"


def read_scores(path: Path) -> list[ScoreRow]:
    """The rows of a scores.jsonl, in order.

    Raises:
      RunError: there is no such file, or a line that is no score row (with its number).
    """
    if not path.exists():
        raise RunError(f"{path} does not exist; make it with: scaledq evaluate {path.parent}")
    return [_row(path, number, line) for number, line in enumerate(journal.read(path), 1)]


def write_scores(path: Path, rows: Iterable[ScoreRow]) -> None:
    """Replaces the file, whole or not at all."""
    write_atomic(path, "".join(adapter(ScoreRow).dump_json(r).decode() + "\n" for r in rows))


def append_scores(path: Path, rows: Iterable[ScoreRow]) -> None:
    """Adds rows at the file's end; each is on disk before the next one is asked for."""
    out = journal.Journal(path)
    try:
        for row in rows:
            out.write(asdict(row))
    finally:
        out.close()


def _row(path: Path, number: int, line: dict[str, Any]) -> ScoreRow:
    try:
        return from_json(ScoreRow, json.dumps(line))
    except ConfigError as error:
        raise RunError(f"{path}, line {number}: {error}") from error
