"""Which token stands for which action, where one model speaks for all tasks.

Atari games share the joystick's 18 actions, so that "left" is one token in every game (Lee et al.,
2022). Every other task has tokens of its own behind them: their actions mean nothing elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from scaledq.core import atari
from scaledq.core.errors import TaskError
from scaledq.core.task import Task


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """`tokens[n][a]` is the token, below `size`, of action a of the n-th task."""

    tokens: tuple[tuple[int, ...], ...]
    size: int


def vocabulary(tasks: Sequence[Task]) -> Vocabulary:
    """The tokens of these tasks; the joystick's come first where there is a game."""
    joysticks = [_joystick(task) for task in tasks]
    size = atari.JOYSTICK if any(joysticks) else 0
    tokens = []
    for task, joystick in zip(tasks, joysticks, strict=True):
        tokens.append(joystick or tuple(range(size, size + task.actions)))
        size += 0 if joystick else task.actions
    return Vocabulary(tuple(tokens), size)


def _joystick(task: Task) -> tuple[int, ...]:
    """The joystick's action of each of the task's; empty for what is not a game as ALE has it."""
    try:
        game, _, _ = atari.parse(task.name)
    except TaskError:
        return ()
    return game.joystick if len(game.joystick) == task.actions else ()
