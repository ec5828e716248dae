"""Where play happens: any task as a row of slots, and many tasks as one flat batch.

Shapes: R rows of a batch, S frames in a stack; `*frame` is the shape of one frame.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, runtime_checkable
from typing import Protocol as Interface

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from scaledq.core.errors import TaskError
from scaledq.core.protocol import Protocol
from scaledq.core.seeds import stream
from scaledq.core.task import Task

if TYPE_CHECKING:
    from scaledq.play.workers import Crew


@dataclass(frozen=True, slots=True)
class Steps:
    """What one action in each of R rows led to."""

    frames: Shaped[np.ndarray, "R *frame"]
    """The next observation; where the episode ended, its closing observation."""
    reward: Float[np.ndarray, "R"]
    """float32, as the task has it: never clipped here."""
    terminated: Bool[np.ndarray, "R"]
    truncated: Bool[np.ndarray, "R"]
    """The protocol's step cap, or the task's own time limit, and not terminated."""

    @property
    def ended(self) -> Bool[np.ndarray, "R"]:
        return self.terminated | self.truncated


class Reel(NamedTuple):
    """What t actions of one slot led to, or as many as its episode took."""

    first: Shaped[np.ndarray, "*frame"] | None
    """The episode's first observation, where it began with them."""
    frames: Shaped[np.ndarray, "t *frame"]
    reward: Float[np.ndarray, "t"]
    terminated: bool
    """With the last of these steps."""
    truncated: bool


@runtime_checkable
class Envs(Interface):
    """Some environments (slots) of one task. Every episode is started by `reset` with a seed.

    A slot whose episode ended rests until it is reset: it scores nothing and ends no more, and its
    frames mean nothing. What a slot plays is a function of its seed and its actions alone: not of
    its neighbours, nor of what it played before.
    """

    @property
    def task(self) -> Task: ...

    @property
    def slots(self) -> int: ...

    def reset(
        self, mask: Bool[np.ndarray, "slots"], seeds: Int[np.ndarray, "resets"]
    ) -> Shaped[np.ndarray, "slots *frame"]:
        """Starts an episode in each slot of `mask`; only their frames are fresh.

        Seeds are 0 to 2**31 - 1, one for each slot of the mask.
        """
        ...

    def send(self, actions: Int[np.ndarray, "slots"]) -> None:
        """Starts one step in every slot; TaskError if an action is outside the task's set."""
        ...

    def recv(self) -> Steps:
        """Waits for the step that `send` started."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Ahead(Envs, Interface):
    """Environments that work while nobody waits for them, once `flush` has told them to."""

    def begin(self, mask: Bool[np.ndarray, "slots"], seeds: Int[np.ndarray, "resets"]) -> None:
        """Asks for what `reset` does."""
        ...

    def begun(self) -> Shaped[np.ndarray, "slots *frame"]:
        """Waits for it."""
        ...

    def flush(self) -> None:
        """Passes on what `begin` and `send` have asked for; until then it only gathers."""
        ...


def make(name: str, slots: int, protocol: Protocol, *, threads: int = 0) -> Envs:
    """The environments of a task, under a protocol.

    Names: `Breakout` (an Atari game), `Freeway:m1d0` (one of its variants), `gym:CartPole-v1`
    (any gymnasium environment with discrete actions), `toy:chain` (a known problem, toy.py).

    Args:
      name: the task's name.
      slots: how many environments run side by side.
      protocol: sticky actions and the step cap hold for every task; frame skip and no-op starts
        are about emulators and hold for Atari only. Its epsilon is the player's affair.
      threads: how many processes emulate: 0 for one a core, 1 for this one alone.

    Raises:
      TaskError: a task that does not exist or is not installed, or no slots.
    """
    return make_all([name], slots, protocol, threads=threads)[0]


def make_all(
    names: Sequence[str], slots: int, protocol: Protocol, *, threads: int = 0
) -> list[Envs]:
    """As `make`, for several tasks, whose emulators share their processes.

    What is sent to such tasks first must be received first.
    """
    if slots < 1:
        raise TaskError(f"need at least one slot a task, got {slots}")
    crew = crew_of(names, slots, threads)
    return open_all([(name, slots) for name in names], protocol, crew=crew)


def is_game(name: str) -> bool:
    """Whether a task of this name would be an Atari game."""
    return not name.startswith(("gym:", "toy:"))


def crew_of(names: Sequence[str], slots: int, threads: int) -> "Crew | None":
    """Processes for the games among so many slots of each task; None if this one is enough."""
    games = sum(map(is_game, names))
    if not games:
        return None
    from scaledq.play.atari import enlist

    return enlist(threads, slots * games)


def open_all(
    tasks: Sequence[tuple[str, int]], protocol: Protocol, *, crew: "Crew | None"
) -> list[Envs]:
    """So many slots of each of these tasks; all of them, or none stays open."""
    made: list[Envs] = []
    with ExitStack() as opened:
        for name, slots in tasks:
            made.append(_make(name, slots, protocol, crew=crew))
            opened.callback(made[-1].close)
        opened.pop_all()
    return made


def _make(name: str, slots: int, protocol: Protocol, *, crew: "Crew | None") -> Envs:
    kind, _, rest = name.partition(":")
    if kind == "gym":
        from scaledq.play.gym import GymEnvs

        return GymEnvs(rest, slots, protocol)
    if kind == "toy":
        from scaledq.play.toy import ToyEnvs

        return ToyEnvs(rest, slots, protocol)
    from scaledq.play.atari import AtariEnvs

    return AtariEnvs(name, slots, protocol, crew=crew)


class Clock:
    """Counts the steps of each slot's episode, and says which of them the step cap ends."""

    def __init__(self, slots: int, step_cap: int):
        self.step_cap = step_cap
        self.age: Int[np.ndarray, "slots"] = np.zeros(slots, np.int64)
        self.playing: Bool[np.ndarray, "slots"] = np.zeros(slots, bool)

    def start(self, mask: Bool[np.ndarray, "slots"]) -> None:
        self.age[mask] = 0
        self.playing |= mask

    def tick(
        self,
        frames: Shaped[np.ndarray, "slots *frame"],
        reward: Float[np.ndarray, "slots"],
        terminated: Bool[np.ndarray, "slots"],
        truncated: Bool[np.ndarray, "slots"] | bool = False,
    ) -> Steps:
        """Ends the step. An episode that terminates at the cap has terminated, not more."""
        self.age += 1
        terminated = terminated & self.playing
        late = (truncated | (self.age >= self.step_cap)) & self.playing & ~terminated
        reward = np.where(self.playing, reward, 0).astype(np.float32)
        self.playing &= ~(terminated | late)
        return Steps(frames, reward, terminated, late)


class StickyActions:
    """Repeats a slot's last action with some probability, for tasks that no emulator plays."""

    def __init__(self, slots: int, probability: float):
        self.probability = probability
        self._dice = [stream(0, "sticky")] * slots
        self._last = np.full(slots, -1)

    def start(self, mask: Bool[np.ndarray, "slots"], seeds: Int[np.ndarray, "resets"]) -> None:
        self._last[mask] = -1
        for slot, number in zip(np.flatnonzero(mask), seeds, strict=True):
            self._dice[slot] = stream(int(number), "sticky")

    def apply(self, actions: Int[np.ndarray, "slots"]) -> Int[np.ndarray, "slots"]:
        kept = np.array([dice.random() < self.probability for dice in self._dice])
        self._last = np.where(kept & (self._last >= 0), self._last, actions)
        return self._last


def check_actions(task: Task, actions: Int[np.ndarray, "R"], rows: int) -> None:
    """Raises TaskError unless there is one action of the task's set for each row."""
    if actions.shape != (rows,):
        raise TaskError(f"task {task.name}: need actions [{rows}], got {list(actions.shape)}")
    wrong = actions[(actions < 0) | (actions >= task.actions)]
    if len(wrong):
        raise TaskError(f"task {task.name} has actions 0 to {task.actions - 1}, got {wrong[0]}")


def make_fleet(
    names: Sequence[str], slots: int, protocol: Protocol, *, stack: int = 4, threads: int = 0
) -> "Fleet":
    """The same number of slots for each of the named tasks; raises what `make` raises."""
    return Fleet(make_all(names, slots, protocol, threads=threads), stack=stack)


class Fleet:
    """Environments of several tasks as one flat batch of R rows, with stacks of frames.

    Rows are sorted by task, in the order given, then by slot.

    Args:
      first: the number of each task's first slot.
    """

    def __init__(self, envs: Sequence[Envs], *, stack: int = 4, first: int = 0):
        _check_equal_frames([e.task for e in envs])
        self.envs = tuple(envs)
        self.stack, self.first = stack, first
        slots = [e.slots for e in self.envs]
        self.task_index: Int[np.ndarray, "R"] = np.repeat(np.arange(len(slots)), slots)
        """Which of `envs` each row belongs to."""
        self.parts = [slice(a, b) for a, b in pairwise(np.cumsum([0, *slots]))]
        frame = self.envs[0].task
        self.obs: Shaped[np.ndarray, "R S *frame"] = np.zeros(
            (len(self.task_index), stack, *frame.frame_shape), frame.frame_dtype
        )
        """Each row's last S frames, zero before its episode's start; the next step rewrites it."""
        self._ahead = [e for e in self.envs if isinstance(e, Ahead)]
        self._under_way: list[tuple[Envs, slice]] = []
        self._starts: list[tuple[slice, np.ndarray, Callable[[], np.ndarray]]] = []

    @property
    def tasks(self) -> tuple[Task, ...]:
        return tuple(e.task for e in self.envs)

    @property
    def rows(self) -> int:
        return len(self.task_index)

    @property
    def row_tasks(self) -> list[Task]:
        """Each row's task [R]."""
        return [self.tasks[number] for number in self.task_index]

    @property
    def names(self) -> list[tuple[str, int]]:
        """Each row's task and its slot in that task."""
        return [(e.task.name, self.first + slot) for e in self.envs for slot in range(e.slots)]

    def reset(self, mask: Bool[np.ndarray, "R"], seeds: Int[np.ndarray, "resets"]) -> None:
        """Starts an episode in each row of `mask`, with one seed for each of them."""
        self.begin(mask, seeds)
        self.begun()

    def begin(self, mask: Bool[np.ndarray, "R"], seeds: Int[np.ndarray, "resets"]) -> None:
        """Starts what `reset` does; `begun` must follow before anything else is asked."""
        every = np.zeros(self.rows, np.int64)
        every[mask] = seeds
        self._starts = []
        for envs, part in zip(self.envs, self.parts, strict=True):
            chosen = mask[part]
            if not chosen.any():
                continue
            wait = partial(envs.reset, chosen, every[part][chosen])
            if isinstance(envs, Ahead):
                envs.begin(chosen, every[part][chosen])
                wait = envs.begun
            self._starts.append((part, chosen, wait))
        self._flush()

    def begun(self) -> None:
        """Waits for the first frames of the episodes that `begin` started."""
        for part, chosen, wait in self._starts:
            frames = wait()
            self.obs[part][chosen] = 0
            self.obs[part][chosen, -1] = frames[chosen]

    def step(
        self, actions: Int[np.ndarray, "R"], *, live: Bool[np.ndarray, "N"] | None = None
    ) -> Steps:
        """One step in every row; all environments work at once.

        Tasks that are not `live` rest: their rows answer zeros and no end, and keep their stacks.
        """
        self.send(actions, live=live)
        return self.recv()

    def send(
        self, actions: Int[np.ndarray, "R"], *, live: Bool[np.ndarray, "N"] | None = None
    ) -> None:
        """Starts a step as `step` does; `recv` must follow before anything else is asked.

        Emulators with processes of their own work meanwhile.
        """
        self._under_way = [
            (envs, part)
            for task, (envs, part) in enumerate(zip(self.envs, self.parts, strict=True))
            if live is None or live[task]
        ]
        for envs, part in self._under_way:
            check_actions(envs.task, actions[part], envs.slots)
        for envs, part in self._under_way:
            envs.send(actions[part])
        self._flush()

    def recv(self) -> Steps:
        """Waits for the step that `send` started."""
        shape, dtype = self.obs.shape, self.obs.dtype
        frames = np.zeros((self.rows, *shape[2:]), dtype)
        reward = np.zeros(self.rows, np.float32)
        terminated, truncated = np.zeros((2, self.rows), bool)
        for envs, part in self._under_way:
            steps = envs.recv()
            frames[part], reward[part] = steps.frames, steps.reward
            terminated[part], truncated[part] = steps.terminated, steps.truncated
            self.obs[part, :-1] = self.obs[part, 1:]
            self.obs[part, -1] = steps.frames
        return Steps(frames, reward, terminated, truncated)

    def close(self) -> None:
        for envs in self.envs:
            envs.close()

    def _flush(self) -> None:
        for envs in self._ahead:
            envs.flush()


def _check_equal_frames(tasks: Sequence[Task]) -> None:
    if not tasks:
        raise TaskError("a fleet needs at least one task")
    first = tasks[0]
    for task in tasks[1:]:
        if (task.frame_shape, task.frame_dtype) != (first.frame_shape, first.frame_dtype):
            raise TaskError(
                f"tasks of one run need equal frames: {first.name} has {first.frame_dtype} "
                f"{list(first.frame_shape)}, {task.name} {task.frame_dtype} "
                f"{list(task.frame_shape)}; play them in runs of their own"
            )
