"""How a run is played fast on a machine without an accelerator.

While one small network answers for all, emulators wait for it and it for them. In an evaluation
that is worth starting processes for, each of them has a network of its own beside its emulators,
and is dealt one piece after the other: some slots of some tasks, played to the end. Nothing travels
but finished episodes.
"""

import subprocess
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import KW_ONLY, dataclass
from itertools import pairwise
from math import ceil
from multiprocessing.connection import Connection, wait

import numpy as np
import torch
from torch import nn

from scaledq.core.errors import ScaledQError
from scaledq.core.protocol import Protocol
from scaledq.nets.head import HEADS, Network
from scaledq.play.envs import Fleet, crew_of, is_game, open_all
from scaledq.play.policy import Policy, Selection
from scaledq.play.rollout import SLOTS, Episode, play_on
from scaledq.play.turns import TURN
from scaledq.play.workers import alive, spawn
from scaledq.run import assemble
from scaledq.run.folder import open_run

SMALL = 5_000_000
"""Weights, without heads, up to which a network answers faster than its games are emulated."""
LEAST = 8
"""Rows that a process must have: a network takes as long for one row as for four."""
WHAT = "a process that evaluates"
WORTH = 50_000
"""Steps, of episodes of a thousand, from which on processes save more than their start takes."""


@contextmanager
def hastened(net: nn.Module) -> Iterator[None]:
    """A network at play among emulators, which work at the same time: a small one computes on a
    quarter of torch's threads and leaves them the other cores; a large one, whose games wait for
    it, on all. What nobody asks of its heads is left out."""
    threads = torch.get_num_threads()
    if is_small(net):
        torch.set_num_threads(max(1, threads // 4))
    try:
        with net.frugal() if isinstance(net, Network) else nullcontext():
            yield
    finally:
        torch.set_num_threads(threads)


def is_small(net: nn.Module) -> bool:
    """Whether emulators take longer than it does."""
    weights = sum(p.numel() for name, p in net.named_parameters() if not name.startswith(HEADS))
    return weights <= SMALL


@dataclass(frozen=True, slots=True)
class Work:
    """A run that plays, and what."""

    folder: str
    tasks: tuple[str, ...]
    protocol: Protocol
    episodes: int
    """Of each task."""
    _: KW_ONLY
    selection: Selection
    keep: int | None
    seed: int

    @property
    def slots(self) -> int:
        """Of each task."""
        return min(SLOTS, self.episodes)


@dataclass(frozen=True, slots=True)
class Piece:
    """What one process plays at a time."""

    tasks: tuple[str, ...]
    first: int
    """Slot."""
    slots: int


def processes_for(work: Work, net: nn.Module) -> int:
    """How many processes are to play; 1 if no others are worth it."""
    crew = crew_of(work.tasks, work.slots, threads=0)
    steps = work.episodes * len(work.tasks) * min(work.protocol.step_cap, 1_000)
    games = all(map(is_game, work.tasks))
    if crew is None or assemble.device() != "cpu" or not (games and is_small(net)) or steps < WORTH:
        return 1
    return max(1, min(crew.processes, work.slots * len(work.tasks) // LEAST))


def pieces(work: Work, processes: int) -> list[Piece]:
    """At least one for each process. Slots of a task are alike, so they are divided first: that
    keeps processes busy equally long, whatever tasks there are."""
    parts = min(processes, work.slots)
    edges = np.linspace(0, work.slots, parts + 1).astype(int).tolist()
    rows = len(work.tasks) * ceil(work.slots / parts)
    chunks = min(len(work.tasks), max(ceil(rows / TURN), ceil(processes / parts)))
    cuts = np.linspace(0, len(work.tasks), chunks + 1).astype(int).tolist()
    return [
        Piece(work.tasks[a:b], first, stop - first)
        for a, b in pairwise(cuts)
        for first, stop in pairwise(edges)
    ]


def play_apart(work: Work, processes: int) -> Generator[Episode]:
    """As `rollout.play` with the run's policy, in so many processes. They end with it.

    Raises:
      ScaledQError: what a process of them raised.
      RunError: one has died.
    """
    left, busy = deque(pieces(work, processes)), []
    with ExitStack() as opened:
        for _ in range(min(processes, len(left))):
            line, process = spawn("scaledq.run.apart", "serve")
            opened.callback(_end, line, process)
            _send(line, work)
            _send(line, left.popleft())
            busy.append(line)
        while busy:
            for line in wait(busy):
                assert isinstance(line, Connection)
                with alive(WHAT):
                    answer: Episode | ScaledQError | None = line.recv()
                if isinstance(answer, ScaledQError):
                    raise answer
                if answer is not None:
                    yield answer
                elif left:
                    _send(line, left.popleft())
                else:
                    busy.remove(line)


def _send(line: Connection, what: Work | Piece) -> None:
    with alive(WHAT):
        line.send(what)


def _end(line: Connection, process: subprocess.Popen) -> None:
    line.close()
    process.kill()
    process.wait()


def serve(line: int) -> None:
    """What such a process does: plays pieces until nobody sends any. Each of its episodes is sent
    as it ends, None after the last of a piece, and what goes wrong instead."""
    connection = Connection(line)
    torch.set_num_threads(1)
    with suppress(EOFError, ConnectionError):
        try:
            work: Work = connection.recv()
            run = open_run(work.folder)
            policy = run.policy(selection=work.selection, keep=work.keep)
            with hastened(run.network):
                while True:
                    for episode in _play(work, connection.recv(), policy):
                        connection.send(episode)
                    connection.send(None)
        except ScaledQError as error:
            connection.send(error)


def _play(work: Work, piece: Piece, policy: Policy) -> Iterator[Episode]:
    tasks = [(name, piece.slots) for name in piece.tasks]
    envs = open_all(tasks, work.protocol, crew=None)
    fleet = Fleet(envs, stack=policy.stack, first=piece.first)
    slots = dict.fromkeys(piece.tasks, work.slots)
    how = {"episodes": work.episodes, "seed": work.seed, "slots": slots}
    try:
        yield from play_on([fleet], policy, work.protocol, **how)
    finally:
        fleet.close()
