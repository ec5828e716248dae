"""How a policy is let play: whole episodes, each slot its own quota, the same ones every time.

Where emulators have processes of their own, fleets take turns: while the policy answers one, the
emulators of the others work. Shapes: R rows of a fleet, N tasks.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from scaledq.core.errors import ConfigError
from scaledq.core.protocol import Protocol
from scaledq.core.seeds import episode_seed
from scaledq.play.envs import Fleet, Steps
from scaledq.play.policy import Dice, Policy, ask, index, note, scale, start
from scaledq.play.turns import make_turns

SLOTS = 8
"""Episodes of a task that are under way at once, unless more are asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """A whole episode; policy, protocol, task, slot, index and seed decide everything in it."""

    task: str
    slot: int
    index: int
    """Which of its slot's episodes, from 0."""
    number: int
    """Which of its task's episodes, from 0: counted slot by slot within each index."""
    seed: int
    """Of the whole evaluation; the episode's own is `episode_seed(seed, task, slot, index)`."""
    score: float
    """Sum of the raw rewards."""
    length: int
    """Steps (decisions)."""
    ended: Literal["terminated", "truncated"]


def play(
    policy: Policy,
    tasks: Sequence[str],
    protocol: Protocol,
    *,
    episodes: int,
    slots: int = SLOTS,
    seed: int = 0,
) -> Iterator[Episode]:
    """Plays each task to the end `episodes` times and yields episodes as they end.

    At most `slots` episodes of a task are under way at once. Slots have equal quotas (but for one):
    taking the first episodes to end would favour short ones.

    Raises:
      TaskError: a task that cannot be played, or that the policy does not know.
      ConfigError: no episodes, or no slots.
    """
    if episodes < 1 or slots < 1:
        raise ConfigError(f"need at least one episode and one slot, got {episodes} and {slots}")
    for task in tasks:
        index(policy, task)
    fleets = make_turns(tasks, min(slots, episodes), protocol, stack=policy.stack)
    try:
        yield from play_on(fleets, policy, protocol, episodes=episodes, seed=seed)
    finally:
        for fleet in fleets:
            fleet.close()


def play_on(
    fleets: Sequence[Fleet],
    policy: Policy,
    protocol: Protocol,
    *,
    episodes: int,
    seed: int = 0,
    slots: Mapping[str, int] | None = None,
) -> Iterator[Episode]:
    """As `play`, on environments that the caller made (under this protocol) and closes.

    A copy of the policy plays each fleet: what it remembers is about those rows alone. Fleets whose
    play is left early have work under way, and can only be closed.

    Args:
      slots: how many each task has, where these fleets do not have them all.
    """
    slots = slots or Counter(name for fleet in fleets for name, _ in fleet.names)
    turns = deque(
        _take_turns(fleet, copy(policy), protocol, Scoring(fleet, slots, episodes, seed))
        for fleet in fleets
    )
    while turns:
        turn = turns.popleft()
        for episode in turn:
            if episode is None:
                turns.append(turn)
                break
            yield episode


def _take_turns(
    fleet: Fleet, policy: Policy, protocol: Protocol, score: "Scoring"
) -> Iterator[Episode | None]:
    """Plays one fleet to the end; None is another's turn, while this one's environments work.

    A row that is through is not stepped any more, and a network is not asked about it: the long
    last episodes of a few rows cost what those cost.
    """
    heads = np.array([index(policy, task.name) for task in fleet.tasks])[fleet.task_index]
    count = np.array([task.actions for task in fleet.tasks])[fleet.task_index]
    choice, chance = (Dice(score.seed, name, fleet.names) for name in ("choice", "epsilon"))
    start(policy, fleet.rows)
    begun, step = score.playing, 0
    while score.playing.any():
        if begun.any():
            fleet.begin(begun, score.seeds(begun))
            yield None
            fleet.begun()
        actions = ask(policy, fleet.obs, heads, choice.at(step), rows=score.playing)
        actions = disturb(actions, count, chance.at(step), epsilon=protocol.epsilon)
        fleet.send(actions, live=score.live)
        yield None
        steps = fleet.recv()
        note(policy, actions, steps)
        yield from score.add(steps)
        begun = steps.ended & score.playing
        step += 1


def disturb(
    actions: Int[np.ndarray, "R"],
    count: Int[np.ndarray, "R"],
    chance: np.ndarray,
    *,
    epsilon: float,
) -> Int[np.ndarray, "R"]:
    """With probability epsilon, one of a row's `count` actions instead; `chance` [R] in [0, 1)."""
    if not epsilon:
        return actions
    return np.where(chance < epsilon, scale(chance / epsilon % 1, count), actions)


def ordered(episodes: Iterable[Episode], tasks: Sequence[str]) -> list[Episode]:
    """The same order whatever ended first: by task as given, then by number."""
    return sorted(episodes, key=lambda e: (tasks.index(e.task), e.number))


class Scoring:
    """Which row plays which of its episodes, and what it has scored in it so far.

    Args:
      slots: how many each task has in all fleets together.
    """

    def __init__(self, fleet: Fleet, slots: Mapping[str, int], episodes: int, seed: int):
        self.fleet, self.seed = fleet, seed
        self._slots = np.array([slots[task] for task, _ in fleet.names])
        slot = np.array([slot for _, slot in fleet.names])
        self._quota = episodes // self._slots + (slot < episodes % self._slots)
        self._index = np.zeros(fleet.rows, np.int64)
        self._score, self._length = np.zeros(fleet.rows), np.zeros(fleet.rows, np.int64)

    @property
    def playing(self) -> Bool[np.ndarray, "R"]:
        """Rows that have not yet played their quota."""
        return self._index < self._quota

    @property
    def live(self) -> Bool[np.ndarray, "N"]:
        """Tasks that have such a row."""
        return np.array([self.playing[part].any() for part in self.fleet.parts])

    def seeds(self, mask: Bool[np.ndarray, "R"]) -> Int[np.ndarray, "resets"]:
        """Of the episodes that the masked rows are about to play."""
        names = [self.fleet.names[row] for row in np.flatnonzero(mask)]
        turns = zip(names, self._index[mask], strict=True)
        return np.array([episode_seed(self.seed, *name, int(turn)) for name, turn in turns])

    def add(self, steps: Steps) -> Iterator[Episode]:
        """Counts a step of every row; yields what it ended."""
        playing = self.playing
        self._score += np.where(playing, steps.reward, 0)
        self._length += playing
        for row in np.flatnonzero(steps.ended & playing):
            yield self._episode(int(row), terminated=bool(steps.terminated[row]))
            self._index[row] += 1
            self._score[row] = self._length[row] = 0

    def _episode(self, row: int, *, terminated: bool) -> Episode:
        task, slot = self.fleet.names[row]
        turn = int(self._index[row])
        return Episode(
            task=task,
            slot=slot,
            index=turn,
            number=turn * int(self._slots[row]) + slot,
            seed=self.seed,
            score=float(self._score[row]),
            length=int(self._length[row]),
            ended="terminated" if terminated else "truncated",
        )
