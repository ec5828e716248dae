"""Many emulators on all cores: the processes that run them, and how they are talked to.

ALE's Python interface holds the interpreter while it emulates, so threads would take turns.
Shapes: k slots, in blocks of neighbours, one block for each process.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from itertools import pairwise
from multiprocessing.connection import Connection
from socket import socketpair
from threading import Thread
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
    """k emulators of one game: one thing is asked at a time, and its result taken before the next.

    Where they are in other processes, they work from `flush` on.
    """

    def begin(self, slots: Int[np.ndarray, "resets"], seeds: Int[np.ndarray, "resets"]) -> None:
        """Starts episodes in these slots."""
        ...

    def begun(self) -> Frames:
        """The first frames of what `begin` started."""
        ...

    def send(self, actions: Int[np.ndarray, "k"]) -> None: ...

    def recv(self) -> Answer:
        """Frames, rewards, and where the game is over."""
        ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class Here:
    """Emulators in this process: they work when a result is wanted."""

    def __init__(self, setup: Setup, slots: int):
        self._emulators = [Emulator(setup) for _ in range(slots)]
        self._actions = np.full(slots, REST)
        self._starts: list[tuple[int, int]] = []

    def begin(self, slots: Int[np.ndarray, "resets"], seeds: Int[np.ndarray, "resets"]) -> None:
        self._starts = list(zip(slots.tolist(), seeds.tolist(), strict=True))

    def begun(self) -> Frames:
        frames = np.zeros((len(self._starts), SIDE, SIDE), np.uint8)
        for row, (slot, seed) in enumerate(self._starts):
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

    def flush(self) -> None:
        """Nobody else is to be told."""

    def close(self) -> None:
        self._emulators.clear()


class Line:
    """The way to a process of a crew. What is asked waits for `flush`, or until an answer is
    wanted, and then travels as one message; so do its answers, in the order of the questions.

    Raises:
      RunError: the process has died.
    """

    def __init__(self, connection: Connection):
        self._connection = connection
        self._asked: list[tuple[object, ...]] = []
        self._answers: deque[tuple[Any, ScaledQError | None]] = deque()

    def ask(self, *request: object) -> None:
        self._asked.append(request)

    def flush(self) -> None:
        asked, self._asked = self._asked, []
        if asked:
            with alive():
                self._connection.send(asked)

    def answer(self) -> Any:
        """What was asked for first; raises what that raised."""
        self.flush()
        while not self._answers:
            with alive():
                self._answers.extend(self._connection.recv())
        answer, error = self._answers.popleft()
        if error is not None:
            raise error
        return answer

    def fileno(self) -> int:
        """So that one can wait for it."""
        return self._connection.fileno()

    def close(self) -> None:
        self._connection.close()


class Crew:
    """Processes that each run a share of the emulators of every game they are given.

    They start with the first of these games and end with the last one, or when this process does,
    however it does.
    """

    def __init__(self, processes: int):
        self.processes = processes
        self.lines: list[Line] = []
        self._running: list[subprocess.Popen] = []
        self._games: set[int] = set()
        self._opened = 0

    def open(self) -> int:
        """A number for one more game."""
        if not self._games:
            started = [spawn("scaledq.play.workers", "serve") for _ in range(self.processes)]
            self.lines = [Line(connection) for connection, _ in started]
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
    """Emulators in the processes of a crew.

    Several games may share a crew; what was asked first must be received first.

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
                line.ask("open", self.game, setup, part.stop - part.start)
                line.flush()
            faults = [_fault(line) for line in self._lines]  # all of them: no answer may be left
            for fault in filter(None, faults):
                raise fault
        except ScaledQError:
            self.crew.close(self.game)
            raise

    def begin(self, slots: Int[np.ndarray, "resets"], seeds: Int[np.ndarray, "resets"]) -> None:
        self._starts = [np.flatnonzero((slots >= p.start) & (slots < p.stop)) for p in self._parts]
        for (line, part), chosen in zip(self._blocks(), self._starts, strict=True):
            line.ask("reset", self.game, slots[chosen] - part.start, seeds[chosen])

    def begun(self) -> Frames:
        frames = np.empty((sum(map(len, self._starts)), SIDE, SIDE), np.uint8)
        for line, chosen in zip(self._lines, self._starts, strict=True):
            frames[chosen] = line.answer()
        return frames

    def send(self, actions: Int[np.ndarray, "k"]) -> None:
        for line, part in self._blocks():
            line.ask("step", self.game, actions[part])

    def recv(self) -> Answer:
        answers = [line.answer() for line in self._lines]
        frames, reward, over = (np.concatenate(part) for part in zip(*answers, strict=True))
        return frames, reward, over

    def flush(self) -> None:
        for line in self._lines:
            line.flush()

    def close(self) -> None:
        """Does not wait for what is still under way."""
        for line in self._lines:
            line.ask("close", self.game)
        self.crew.close(self.game)

    def _blocks(self) -> list[tuple[Line, slice]]:
        return list(zip(self._lines, self._parts, strict=True))


def spawn(module: str, function: str) -> tuple[Connection, subprocess.Popen]:
    """The connection to a process that runs that function, with the number of its own end, in a
    session of its own that Ctrl-C does not reach. It does not outlive this process."""
    ours, theirs = socketpair()
    order = f"import sys; sys.path[:] = {sys.path!r}; sys.modules['gymnasium'] = None\n"
    order += f"from scaledq.play.workers import end_with; end_with({os.getpid()})\n"
    order += f"from {module} import {function}; {function}({theirs.fileno()})"
    command = [sys.executable, "-c", order]
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()], start_new_session=True)
    theirs.close()
    return Connection(ours.detach()), process


def end_with(parent: int) -> None:
    """From now on this process ends soon after that one, however it ended and whatever it does."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def serve(line: int) -> None:
    """What a worker does: answers until nobody asks any more.

    Every answer is a pair: what was asked for and None, or None and the error. Closing has none.
    """
    connection = Connection(line)
    games: dict[int, Here | Game] = {}
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            answers = [_do(games, *request) for request in connection.recv()]
            connection.send([answer for answer in answers if answer])


def _do(
    games: dict[int, Here | Game], verb: str, number: int, *given: Any
) -> tuple[Any, ScaledQError | None] | None:
    try:
        match verb:
            case "open":
                games[number] = Here(*given)
            case "cast":
                games[number] = Game(*given)
            case "close":
                del games[number]
                return None
            case _:
                return _ask_game(games[number], verb, *given), None
    except ScaledQError as error:
        return None, error
    return None, None


def _ask_game(game: Here | Game, verb: str, *given: Any) -> Any:
    if isinstance(game, Game):
        return game.play(*given)
    if verb == "reset":
        game.begin(*given)
        return game.begun()
    game.send(*given)
    return game.recv()


@contextlib.contextmanager
def alive(what: str = "an emulator process") -> Iterator[None]:
    """RunError where a process turns out to be dead."""
    try:
        yield
    except (EOFError, OSError) as error:
        raise RunError(f"{what} has died; was it killed, or out of memory?") from error


def _fault(line: Line) -> ScaledQError | None:
    try:
        line.answer()
    except ScaledQError as fault:
        return fault
    return None
