"""Play whose actions are known beforehand: slots take many steps at a word, each in its own time,
so that none waits for another, nor for whoever records them.

Shapes: R rows, t steps; `*frame` is the shape of one frame.
"""

from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from scaledq.core import atari
from scaledq.core.errors import ScaledQError
from scaledq.core.protocol import Protocol
from scaledq.play.envs import Envs, Reel, check_actions, is_game, make

if TYPE_CHECKING:
    from scaledq.play.workers import Crew, Line


class Cast:
    """One environment for each of R rows. A row may be asked again when it has answered.

    Args:
      names: each row's task, as `make` takes it.
      threads: how many processes emulate Atari games: 0 for one a core, 1 for this one alone.

    Raises:
      TaskError: as `make`.
      RunError: a process has died.
    """

    def __init__(self, names: Sequence[str], protocol: Protocol, *, threads: int = 0):
        self._envs: dict[int, Envs] = {}
        self._waiting: deque[tuple[int, np.ndarray, int | None]] = deque()
        self._troupe: _Troupe | None = None
        games = {row: name for row, name in enumerate(names) if is_game(name)}
        with ExitStack() as opened:
            opened.callback(self.close)
            crew = _crew(len(games), threads) if games else None
            if crew:
                self._troupe = _Troupe(crew)
                self._troupe.hire(games, protocol)
            for row, name in enumerate(names):
                if not (crew and is_game(name)):
                    self._envs[row] = make(name, 1, protocol, threads=1)
            self.tasks = tuple(
                self._envs[row].task if row in self._envs else atari.task(name)
                for row, name in enumerate(names)
            )
            """Of the rows [R]."""
            opened.pop_all()

    def send(self, row: int, actions: Int[np.ndarray, "t"], *, seed: int | None = None) -> None:
        """Asks a row for these actions; with a seed, in a new episode that begins with it.

        Raises:
          TaskError: an action outside the task's set.
        """
        check_actions(self.tasks[row], actions, len(actions))
        if row in self._envs:
            self._waiting.append((row, actions, seed))
        elif self._troupe:
            self._troupe.send(row, actions, seed)

    def recv(self) -> tuple[int, Reel]:
        """Waits for some row's answer."""
        if self._waiting:
            row, actions, seed = self._waiting.popleft()
            return row, _play(self._envs[row], actions, seed)
        assert self._troupe, "nobody was asked"
        return self._troupe.recv()

    def close(self) -> None:
        for envs in self._envs.values():
            envs.close()
        if self._troupe:
            self._troupe.close()


class _Troupe:
    """Atari games in the processes of a crew."""

    def __init__(self, crew: "Crew"):
        self._crew, self._number = crew, crew.open()
        self._line: dict[int, Line] = {}
        self._asked: dict[Line, deque[int]] = {line: deque() for line in crew.lines}

    def hire(self, games: dict[int, str], protocol: Protocol) -> None:
        """Opens each row's game in some process."""
        from scaledq.play.atari import setup

        lines = self._crew.lines
        for place, (row, name) in enumerate(games.items()):
            self._line[row] = lines[place % len(lines)]
            self._ask("cast", row, setup(name, protocol), protocol.step_cap)
        faults = [self._fault() for _ in games]  # all of them: no answer may be left
        for fault in filter(None, faults):
            raise fault

    def send(self, row: int, actions: np.ndarray, seed: int | None) -> None:
        self._ask("play", row, actions, seed)

    def recv(self) -> tuple[int, Reel]:
        """The row that answers first, and its answer."""
        return self._next()

    def _next(self) -> tuple[int, Any]:
        asked: list[Any] = [line for line, rows in self._asked.items() if rows]
        line: Line = wait(asked)[0]  # pyright: ignore[reportAssignmentType]
        return self._asked[line].popleft(), line.answer()

    def _ask(self, verb: str, row: int, *given: object) -> None:
        """At once, in a message of its own: rows do not wait for one another."""
        line = self._line[row]
        line.ask(verb, row, *given)
        line.flush()
        self._asked[line].append(row)

    def close(self) -> None:
        self._crew.close(self._number)

    def _fault(self) -> ScaledQError | None:
        try:
            self._next()
        except ScaledQError as fault:
            return fault
        return None


def _crew(games: int, threads: int) -> "Crew | None":
    from scaledq.play.atari import enlist

    return enlist(threads, games)


def _play(envs: Envs, actions: np.ndarray, seed: int | None) -> Reel:
    """A script in environments of one slot."""
    first = None if seed is None else envs.reset(np.ones(1, bool), np.array([seed]))[0].copy()
    frames = np.empty((len(actions), *envs.task.frame_shape), envs.task.frame_dtype)
    reward = np.zeros(len(actions), np.float32)
    taken, terminated, truncated = 0, False, False
    while taken < len(actions) and not (terminated or truncated):
        envs.send(actions[taken : taken + 1])
        steps = envs.recv()
        frames[taken], reward[taken] = steps.frames[0], steps.reward[0]
        terminated, truncated = bool(steps.terminated[0]), bool(steps.truncated[0])
        taken += 1
    return Reel(first, frames[:taken], reward[:taken], terminated, truncated)
