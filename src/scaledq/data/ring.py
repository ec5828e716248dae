"""What an agent that learns while it plays draws its batches from: the last steps of every slot.

Each slot (environment) of each task has a ring of its own, whose rows are those of its log: a frame
each, with what was done in it, and a closing row after an episode's end. The newest row holds what
the slot sees now. Shapes: N tasks, R slots of all tasks (sorted by task), C rows of a slot, B
batch, S stack, n steps, K = S + n frames of a sample.
"""

from collections.abc import Sequence

import numpy as np
import torch

from scaledq.core.batch import Batch
from scaledq.core.config import config
from scaledq.core.errors import ConfigError, DataError
from scaledq.core.task import Task
from scaledq.data.frames import Kind, reserve
from scaledq.data.loader import Transitions, samples
from scaledq.data.rows import CLOSING, ENDED, START, TERMINATED, USABLE, flags
from scaledq.data.sampler import sample
from scaledq.data.windows import follow, horizon, monte_carlo, reach


@config
class RingConfig:
    """How much is remembered, and how."""

    capacity: int = 1_000_000
    """Rows of each task: transitions, and the closing observations of its episodes."""
    frames: Kind = "plain"
    """plain: 7 kB for an Atari frame. zstd: some hundred bytes, but slower to draw."""


class Ring:
    """The last `capacity` rows of every task, shared evenly by its slots.

    Args:
      tasks: of equal frames; their order is the meaning of `Batch.task`.
      slots: environments of each task.
      batch_size, seed: of the batches; batch t is a function of (seed, t) and of what is held.
      returns: batches hold Monte-Carlo returns too, known from the step on that ended the episode.

    Raises:
      ConfigError: a slot's share of the capacity has no room for a stack, n steps and an end.
    """

    def __init__(
        self,
        cfg: RingConfig,
        tasks: Sequence[Task],
        *,
        slots: int,
        transitions: Transitions,
        batch_size: int,
        seed: int,
        returns: bool = False,
    ) -> None:
        self.cfg, self.transitions, self.tasks = cfg, transitions, tuple(tasks)
        self.slots, self.length = slots, -(-cfg.capacity // slots)
        # One more than a sample: the newest rows may be an episode's end and the next one's start.
        least = transitions.stack + transitions.n_step + 1
        if self.length < least:
            raise ConfigError(
                f"ring.capacity: {cfg.capacity} rows over {slots} environments are {self.length} "
                f"each, fewer than the {least} that a stack of {transitions.stack} and "
                f"{transitions.n_step} steps need; take at least {least * slots}"
            )
        self._batch_size, self._seed, self._returns = batch_size, seed, returns
        ring, places, task = len(tasks) * slots, len(tasks) * slots * self.length, tasks[0]
        self._frames = reserve(cfg.frames, places, task.frame_shape, task.frame_dtype)
        self.rows = np.zeros(ring, np.int64)
        """Rows that each slot has ever had [R]; row i lies at i % C."""
        # Transition k of a slot is the row _made[slot, k % C]; those from _first on can be drawn.
        self._first, self._taken = np.zeros((2, ring), np.int64)
        self._made = np.zeros(places, np.int64)
        self._action = np.zeros(places, np.int16)
        self._reward = np.zeros(places, np.float32)
        self._flags = np.zeros(places, np.uint8)

    def __len__(self) -> int:
        """Transitions that can be drawn."""
        return int((self._taken - self._first).sum())

    def begin(self, mask: np.ndarray, frames: np.ndarray) -> None:
        """Episodes begin in the slots of `mask` [R] with frames [R *frame]."""
        slots = np.flatnonzero(mask)
        self._append(slots, frames[slots], START)

    def add(
        self,
        mask: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        frames: np.ndarray,
    ) -> None:
        """One step of the slots in `mask`, all [R]; frames [R *frame] are what it led to.

        Where the episode ended that is its closing observation, and `begin` must follow.
        """
        slots = np.flatnonzero(mask)
        place = self._place(slots, self.rows[slots] - 1)
        self._action[place], self._reward[place] = action[slots], reward[slots]
        bits = np.full(len(slots), USABLE, np.uint8)
        bits[(terminated | truncated)[slots]] |= ENDED
        bits[terminated[slots]] |= TERMINATED
        self._flags[place] |= bits
        self._made[self._place(slots, self._taken[slots])] = self.rows[slots] - 1
        self._taken[slots] += 1
        self._append(slots, frames[slots], 0)

    def cut(self, mask: np.ndarray) -> None:
        """The slots of `mask` [R] play no more, amid an episode: as in a log, it is not known what
        their last step led to."""
        slots = np.flatnonzero(mask)
        self._flags[self._place(slots, self.rows[slots] - 2)] &= ~np.uint8(USABLE)
        self._taken[slots] -= 1

    def batch(self, step: int) -> Batch:
        """The batch of update `step`: a task by even chance, then any of its transitions.

        Raises:
          DataError: there is a task without a transition.
        """
        t, length = self.transitions, self.length
        task, slot, row = self._draw(step)
        newest = self.rows[slot] - 1
        window = np.minimum(row[:, None] + np.arange(t.n_step), newest[:, None])
        ahead = self._place(slot[:, None], window)
        found = follow(self._flags[ahead], self._reward[ahead], gamma=t.gamma, clip=t.reward_clip)
        back = row[:, None] - np.arange(t.stack - 1)
        depth = reach(self._flags[self._place(slot[:, None], back)])
        place = ahead[:, 0]
        numbers = samples(t, found, task, action=self._action[place], reward=self._reward[place])
        if self._returns:
            numbers["returns"] = self._monte_carlo(slot, row)
        offset = np.arange(t.stack + t.n_step) - (t.stack - 1)
        inside = (offset >= -depth[:, None]) & (offset <= found.steps[:, None])
        wanted = slot[:, None] * length + (row[:, None] + offset) % length
        frames = self._frames.take(wanted.ravel())
        frames[~inside.ravel()] = 0
        pictures = torch.from_numpy(frames).unflatten(0, inside.shape)
        tensors = {name: torch.from_numpy(values) for name, values in numbers.items()}
        return Batch(frames=pictures, **tensors, stack=t.stack, noise=step)

    def restore(
        self,
        slot: int,
        action: np.ndarray,
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        *,
        rows: int,
        playing: bool,
    ) -> None:
        """Takes up the last k rows of a slot's log of `rows` rows, all [k]; `put` gives its frames.

        Args:
          rows: where it is more than k, k is at least C.
          playing: the slot goes on, from a newest row that the log does not have yet.
        """
        closed = len(action) > 0 and action[-1] == CLOSING
        newer = int(playing or not closed)
        kept = min(len(action), self.length - newer)
        tail = slice(len(action) - kept, None)
        columns = [column[tail] for column in (action, terminated, truncated)]
        bits = flags(*(np.append(column, np.zeros(1, column.dtype)) for column in columns))
        if not playing and not closed:
            bits[-2:-1] &= ~np.uint8(USABLE)
        here, first = np.array([slot]), rows - kept
        places = self._place(here, np.arange(first, rows + newer))
        self._flags[places] = bits[: kept + newer]
        self._action[places[:kept]], self._reward[places[:kept]] = action[tail], reward[tail]
        self.rows[slot] = rows + newer
        made = np.flatnonzero(bits[:kept] & USABLE) + first
        self._first[slot], self._taken[slot] = 0, len(made)
        self._made[self._place(here, np.arange(len(made)))] = made
        self._forget(here)

    def put(self, slot: int, first: int, frames: np.ndarray) -> None:
        """Frames [k *frame] of a slot's rows from `first` on."""
        rows = np.arange(first, first + len(frames))
        self._frames.put(self._place(np.array([slot]), rows), frames)

    def _draw(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(task, slot, row), each int64 [B]."""
        held = self._taken - self._first
        sizes = held.reshape(len(self.tasks), self.slots).sum(1)
        if sizes.min() < 1:
            name = self.tasks[int(sizes.argmin())].name
            raise DataError(f"no transition of {name} to learn from yet; start learning later")
        shares = np.ones(len(sizes))
        task, index = sample(sizes, shares, seed=self._seed, step=step, batch=self._batch_size)
        before = np.cumsum([0, *held])
        index = index + before[task * self.slots]
        slot = np.searchsorted(before, index, side="right") - 1
        number = self._first[slot] + index - before[slot]
        return task, slot, self._made[self._place(slot, number)]

    def _monte_carlo(self, slot: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Returns of rows of slots [B] as far as they are played: float32 [B], NaN elsewhere."""
        t, newest = self.transitions, self.rows[slot] - 1
        window = np.minimum(row[:, None] + np.arange(horizon(t.gamma)), newest[:, None])
        ahead = self._place(slot[:, None], window)
        bits, reward = self._flags[ahead], self._reward[ahead]
        return monte_carlo(follow(bits, reward, gamma=t.gamma, clip=t.reward_clip), gamma=t.gamma)

    def _append(self, slots: np.ndarray, frames: np.ndarray, bits: int) -> None:
        place = self._place(slots, self.rows[slots])
        self._action[place], self._flags[place] = CLOSING, bits
        self._frames.put(place, frames)
        self.rows[slots] += 1
        self._forget(slots)

    def _forget(self, slots: np.ndarray) -> None:
        """Draws no more the transitions whose stack may have been overwritten."""
        while len(slots):
            rows = self.rows[slots]
            low = np.where(rows > self.length, rows - self.length + self.transitions.stack - 1, 0)
            first = self._first[slots]
            oldest = self._made[self._place(slots, first)]
            slots = slots[(first < self._taken[slots]) & (oldest < low)]
            self._first[slots] += 1

    def _place(self, slots: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Where rows of slots lie in the arrays."""
        return slots * self.length + rows % self.length
