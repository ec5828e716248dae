"""How play whose actions are known beforehand is recorded: every slot for itself, one episode after
another, each slot's course written as a generator that asks for steps and is sent what they led to.

R slots, t steps.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from scaledq.data.sources.action_log import Ended, Episode
from scaledq.play.envs import Reel
from scaledq.play.script import Cast
from scaledq.run.recorder import BLOCK, Tape


class Ask(NamedTuple):
    """The next steps of a slot."""

    actions: np.ndarray
    """[t]"""
    seed: int | None
    """Of the episode that begins with them."""


Course = Generator[Ask, Reel, None]
"""All that one slot plays."""


def perform(cast: Cast, courses: Sequence[Course]) -> Iterator[int]:
    """Plays every row's course to its end; yields the steps that each answer brought."""
    asked = 0
    for row, course in enumerate(courses):
        asked += _ask(cast, row, next(course, None))
    while asked:
        row, reel = cast.recv()
        asked -= 1
        with suppress(StopIteration):  # its course has ended
            asked += _ask(cast, row, courses[row].send(reel))
        yield len(reel.reward)


def share(tape: Tape, seed: Callable[[int], int], actions: np.ndarray) -> Course:
    """Episode after episode, seed(number) starting each, until the actions [t] are used up."""
    while len(actions):
        played = yield from episode(tape, seed(len(tape.episodes)), actions)
        actions = actions[len(played) :]


def episode(tape: Tape, seed: int, actions: np.ndarray) -> Generator[Ask, Reel, Episode]:
    """Records one episode: to its end, or cut where the actions [t] end."""
    tape.begin(seed)
    ended, taken = Ended.CUT, 0
    frame = np.empty(0)
    while taken < len(actions) and ended == Ended.CUT:
        asked = actions[taken : taken + BLOCK].astype(np.int64)
        reel = yield Ask(asked, None if taken else seed)
        frame = frame if reel.first is None else reel.first
        steps = len(reel.reward)
        terminated, truncated = np.zeros((2, steps), bool)
        terminated[-1], truncated[-1] = reel.terminated, reel.truncated
        frames = np.concatenate([frame[None], reel.frames[:-1]])
        tape.add(frames, asked[:steps].astype(np.int16), reel.reward, terminated, truncated)
        frame, taken = reel.frames[-1], taken + steps
        ended = Ended(int(reel.terminated) | int(reel.truncated) << 1)
    if ended != Ended.CUT:
        none = np.zeros(1, bool)
        tape.add(frame[None], np.full(1, -1, np.int16), np.zeros(1, np.float32), none, none)
    return tape.end(ended)


def _ask(cast: Cast, row: int, ask: Ask | None) -> int:
    if ask is None:
        return 0
    cast.send(row, ask.actions, seed=ask.seed)
    return 1
