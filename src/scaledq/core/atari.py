"""What Atari games there are: names, action counts, the paper's splits, reference scores."""

import csv
import re
from functools import cache
from importlib.resources import files

from scaledq.core.config import config
from scaledq.core.errors import TaskError, suggest
from scaledq.core.task import Task

JOYSTICK = 18
"""All that an Atari's joystick can do, in ALE's order."""


@config
class Game:
    """One row of `atari_scores.csv`; the sources of its numbers stand in that file's header."""

    name: str
    actions: int
    random: float
    human: float
    dqn_200m: float | None
    """Dopamine's DQN after 200 M frames."""
    dqn_best: float | None
    """The best iteration of that DQN: the normaliser of Lee et al. (2022)."""
    data_mean_full: float | None
    data_mean_first20: float | None
    agreed_human: bool
    """False for the five games without a standard human score (Carnival and Pooyan of the 40)."""
    role: str
    """train40, heldout5, mgdt41 or other."""
    joystick: tuple[int, ...]
    """Which of ALE's 18 actions each of the game's own is."""

    @property
    def rom(self) -> str:
        """The name ale-py gives this game's ROM: snake_case."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", self.name).lower()


@cache
def games() -> dict[str, Game]:
    """Every game with reference scores, by name."""
    text = files("scaledq.core").joinpath("atari_scores.csv").read_text()
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return {row["game"]: _game(row) for row in rows}


def _game(row: dict[str, str]) -> Game:
    def number(column: str) -> float | None:
        return float(row[column]) if row[column] else None

    return Game(
        name=row["game"],
        actions=int(row["actions"]),
        random=float(row["random"]),
        human=float(row["human"]),
        dqn_200m=number("dqn_200m"),
        dqn_best=number("dqn_best_iter"),
        data_mean_full=number("data_mean_full"),
        data_mean_first20=number("data_mean_first20"),
        agreed_human=row["score_src"] == "dqn_zoo",
        role=row["role"],
        joystick=tuple(int(action) for action in row["joystick"].split()),
    )


def with_role(role: str) -> tuple[str, ...]:
    """Names of the games in one of the paper's splits: train40 (section 5) or heldout5 (5.2)."""
    return tuple(name for name, game in games().items() if game.role == role)


def parse(name: str) -> tuple[Game, int, int]:
    """Reads `Breakout` or `Breakout:m12d0`: the game, its mode and its difficulty (0 and 0).

    Raises:
      TaskError: no such game (with a suggestion), or a variant that is not written `m<n>d<n>`.
    """
    base, colon, variant = name.partition(":")
    if base not in games():
        raise TaskError(f"unknown game {base!r}; {suggest(base, games())}")
    if not colon:
        return games()[base], 0, 0
    found = re.fullmatch(r"m(\d+)d(\d+)", variant)
    if not found:
        raise TaskError(f"task {name!r}: a variant is written {base}:m<mode>d<difficulty>")
    return games()[base], int(found[1]), int(found[2])


def task(name: str) -> Task:
    """The task of that name: 84x84 grey frames, the game's minimal action set."""
    return Task(name=name, actions=parse(name)[0].actions)
