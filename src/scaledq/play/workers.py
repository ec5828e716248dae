"""Many emulators on all cores: the processes that run them, and how they are talked to.

ALE's Python interface holds the interpreter while it emulates, so threads would take turns.
Shapes: k slots, in blocks of neighbours, one block for each process.
"""

import contextlib
import subprocess
import sys
from itertools import pairwise
from multiprocessing.connection import Connection
from socket import socketpair
from typing import Any
from typing import Protocol as Interface

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from scaledq.core.errors import RunError, ScaledQError
from scaledq.play.emulator import SIDE, Emulator, Game, Setup

REST = -1
"""In place of an action: the slot does nothing and its answer means nothing."""

Frames = UInt8[np.ndarray, "k 84 84"]
Answer = tuple[Frames, Float[np.ndarray, "k"], Bool[np.ndarray, "k"]]


class Emulators(Interface):
    """k emulators of one game. Between `send` and `recv` nothing else may be asked."""

    def reset(self, slots: Int[np.ndarray, "resets"], seeds: Int[np.ndarray, "resets"]) -> Frames:
        """Starts episodes in these slots; returns the first frames of these alone."""
        ...

    def send(self, actions: Int[np.ndarray, "k"]) -> None: ...

    def recv(self) -> Answer:
        """Frames, rewards, and where the game is over."""
        ...

    def close(self) -> None: ...


class Here:
    """Emulators in this process: they work when `recv` is called."""

    def __init__(self, setup: Setup, slots: int):
        self._emulators = [Emulator(setup) for _ in range(slots)]
        self._actions = np.full(slots, REST)

    def reset(self, slots: Int[np.ndarray, "resets"], seeds: Int[np.ndarray, "resets"]) -> Frames:
        frames = np.zeros((len(slots), SIDE, SIDE), np.uint8)
        for row, (slot, seed) in enumerate(zip(slots.tolist(), seeds.tolist(), strict=True)):
            frames[row] = self._emulators[slot].reset(seed)
        return frames

    def send(self, actions: Int[np.ndarray, "k"]) -> None:
        self._actions = actions

    def recv(self) -> Answer:
        slots = len(self._emulators)
        frames = np.zeros((slots, SIDE, SIDE), np.uint8)
        reward, over = np.zeros(slots, np.float32), np.zeros(slots, bool)
        for slot, action in enumerate(self._actions.tolist()):
            if action != REST:
                frames[slot], reward[slot], over[slot] = self._emulators[slot].step(action)
        return frames, reward, over

    def close(self) -> None:
        self._emulators.clear()


class Crew:
    """Processes that each run a share of the emulators of every game they are given.

    They start with the first of these games and end with the last one, or when this process does,
    however it does.
    """

    def __init__(self, processes: int):
        self.processes = processes
        self.lines: list[Connection] = []
        self._running: list[subprocess.Popen] = []
        self._games: set[int] = set()
        self._opened = 0

    def open(self) -> int:
        """A number for one more game."""
        if not self._games:
            started = [_start() for _ in range(self.processes)]
            self.lines = [line for line, _ in started]
            self._running = [process for _, process in started]
        self._opened += 1
        self._games.add(self._opened)
        return self._opened

    def close(self, game: int) -> None:
        self._games.discard(game)
        if self._games:
            return
        for line, process in zip(self.lines, self._running, strict=True):
            line.close()  # a worker ends when nobody talks to it any more
            process.wait()
        self.lines, self._running = [], []


class There:
    """Emulators in the processes of a crew, which work from `send` on.

    Several games may share a crew; what was sent first must be received first.

    Raises:
      TaskError: as Emulator.
      RunError: a process of the crew has died.
    """

    def __init__(self, crew: Crew, setup: Setup, slots: int):
        self.crew, self.game = crew, crew.open()
        blocks = min(slots, len(crew.lines))
        turn = [(self.game + block) % len(crew.lines) for block in range(blocks)]
        self._lines = [crew.lines[k] for k in turn]  # so that small games do not share one process
        self._edges = np.linspace(0, slots, blocks + 1).astype(int)
        self._parts = [slice(a, b) for a, b in pairwise(self._edges.tolist())]
        try:
            for line, part in self._blocks():
                ask(line, "open", self.game, setup, part.stop - part.start)
            faults = [_fault(line) for line in self._lines]  # all of them: no answer may be left
            for fault in filter(None, faults):
                raise fault
        except ScaledQError:
            self.crew.close(self.game)
            raise

    def reset(self, slots: Int[np.ndarray, "resets"], seeds: Int[np.ndarray, "resets"]) -> Frames:
        frames = np.empty((len(slots), SIDE, SIDE), np.uint8)
        rows = [np.flatnonzero((slots >= p.start) & (slots < p.stop)) for p in self._parts]
        for (line, part), chosen in zip(self._blocks(), rows, strict=True):
            ask(line, "reset", self.game, slots[chosen] - part.start, seeds[chosen])
        for line, chosen in zip(self._lines, rows, strict=True):
            frames[chosen] = answer(line)
        return frames

    def send(self, actions: Int[np.ndarray, "k"]) -> None:
        for line, part in self._blocks():
            ask(line, "step", self.game, actions[part])

    def recv(self) -> Answer:
        answers = [answer(line) for line in self._lines]
        frames, reward, over = (np.concatenate(part) for part in zip(*answers, strict=True))
        return frames, reward, over

    def close(self) -> None:
        for line in self._lines:
            with contextlib.suppress(RunError):  # whoever has died has closed its games
                ask(line, "close", self.game)
                answer(line)
        self.crew.close(self.game)

    def _blocks(self) -> list[tuple[Connection, slice]]:
        return list(zip(self._lines, self._parts, strict=True))


def _start() -> tuple[Connection, subprocess.Popen]:
    """The line to a process in `serve`, in a session of its own that Ctrl-C does not reach."""
    ours, theirs = socketpair()
    order = f"import sys; sys.path[:] = {sys.path!r}; sys.modules['gymnasium'] = None\n"
    order += f"from scaledq.play.workers import serve; serve({theirs.fileno()})"
    command = [sys.executable, "-c", order]
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()], start_new_session=True)
    theirs.close()
    return Connection(ours.detach()), process


def serve(line: int) -> None:
    """What a worker does: answers until nobody asks any more.

    Every answer is a pair: what was asked for and None, or None and the error.
    """
    connection = Connection(line)
    games: dict[int, Here | Game] = {}
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            request = connection.recv()
            try:
                connection.send((_do(games, *request), None))
            except ScaledQError as error:
                connection.send((None, error))


def _do(games: dict[int, Here | Game], verb: str, number: int, *given: Any) -> Any:
    if verb == "open":
        games[number] = Here(*given)
    elif verb == "cast":
        games[number] = Game(*given)
    elif verb == "close":
        games.pop(number)
    else:
        return _ask_game(games[number], verb, *given)
    return None


def _ask_game(game: Here | Game, verb: str, *given: Any) -> Any:
    if isinstance(game, Game):
        return game.play(*given)
    if verb == "reset":
        return game.reset(*given)
    game.send(*given)
    return game.recv()


def ask(line: Connection, *request: object) -> None:
    """Asks a process of a crew for something; RunError if it has died."""
    try:
        line.send(request)
    except OSError as error:
        raise RunError("an emulator process has died; was it killed, or out of memory?") from error


def _fault(line: Connection) -> ScaledQError | None:
    try:
        answer(line)
    except ScaledQError as fault:
        return fault
    return None


def answer(line: Connection) -> Any:
    """What was asked for first; raises what that raised, or RunError if the process has died."""
    try:
        answer, error = line.recv()
    except (EOFError, OSError) as fault:
        raise RunError("an emulator process has died; was it killed, or out of memory?") from fault
    if error is not None:
        raise error
    return answer
