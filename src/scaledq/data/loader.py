"""From logs to batches: batch t is a function of (seed, t), and the next ones are read meanwhile.

Shapes: B batch (this rank's part of the global one), S stack, n steps, K = S + n frames of a row.
A window of steps holds K = T frames (sequences.py).
"""

import hashlib
import json
import queue
import threading
import time
from collections.abc import Generator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import tensorstore as ts
import torch
from torch import Tensor

from scaledq.core.batch import Batch, Windows
from scaledq.core.config import config
from scaledq.core.errors import ConfigError, DataError, TaskError, suggest
from scaledq.core.task import Task
from scaledq.data import zarr
from scaledq.data.columns import Columns
from scaledq.data.reader import Plan
from scaledq.data.rows import ENDED, START, USABLE
from scaledq.data.sampler import draws, sample
from scaledq.data.sequences import Sequences
from scaledq.data.store import Log, Store
from scaledq.data.view import View, select
from scaledq.data.windows import Walk, clipped, horizon, monte_carlo, runs, walk


@config
class Transitions:
    """How rows become training samples."""

    stack: int = 4
    """S: frames in an observation; before the episode's start they are zeros."""
    n_step: int = 3
    """n: rewards summed before the bootstrap; fewer where the episode or the log ends first."""
    gamma: float = 0.99
    reward_clip: float | None = 1.0
    """Rewards are clipped to [-this, this] one by one; None keeps them raw."""

    def __post_init__(self) -> None:
        if self.stack < 1 or self.n_step < 1:
            raise ConfigError(
                f"transitions: need stack and n_step >= 1, got {self.stack} and {self.n_step}"
            )
        if not 0 <= self.gamma <= 1:
            raise ConfigError(f"transitions: gamma must lie in [0, 1], got {self.gamma}")
        if self.reward_clip is not None and not self.reward_clip > 0:
            raise ConfigError(f"transitions: reward_clip must be positive, got {self.reward_clip}")

    def reader(self, columns: Columns) -> "TransitionReader":
        """Cuts transitions from these columns."""
        return TransitionReader(self, columns)


class TransitionReader:
    """See `reader.Reader`."""

    choosable, lacking = None, ""

    def __init__(self, cfg: Transitions, columns: Columns):
        self.cfg, self.columns = cfg, columns

    def plan(self, task: np.ndarray, rows: np.ndarray, draws: np.ndarray) -> Plan:
        t, columns = self.cfg, self.columns
        found = walk(columns, rows, n=t.n_step, gamma=t.gamma, clip=t.reward_clip)
        numbers = samples(t, found, task, action=columns.action[rows], reward=columns.reward[rows])
        frames = runs(columns, rows, found.steps, stack=t.stack)
        return Plan(numbers | {"draws": draws}, frames, t.stack + t.n_step)

    def batch(self, frames: np.ndarray, numbers: dict[str, np.ndarray]) -> Batch:
        noise = int(numbers.pop("draws")[0])
        tensors = {name: torch.from_numpy(values) for name, values in numbers.items()}
        return Batch(frames=torch.from_numpy(frames), **tensors, stack=self.cfg.stack, noise=noise)


def samples(
    t: Transitions, found: Walk, task: np.ndarray, *, action: np.ndarray, reward: np.ndarray
) -> dict[str, np.ndarray]:
    """All of B samples but their frames, by the names of `Batch`: all [B]."""
    discount = np.where(found.terminated, 0.0, t.gamma**found.steps)
    return {
        "task": task,
        "action": action.astype(np.int64),
        "reward": found.reward.astype(np.float32),
        "step_reward": clipped(reward, t.reward_clip),
        "discount": discount.astype(np.float32),
        "steps": found.steps,
    }


class Loader:
    """Batches of several tasks from the stores that hold them.

    Args:
      stores: a task's logs in all of them are taken together.
      tasks: names; their order is the meaning of `Batch.task`.
      transitions: what a row becomes: a transition, or a window of steps.
      batch_size: of the global batch; rank r of `world` gets its rows r::world.
      returns: batches of transitions hold their Monte-Carlo returns too.
      prefetch: batches that `stream` keeps ready.
      pinned: `stream` leaves them in page-locked memory, for copies to a GPU.

    Raises:
      DataError: a task that no store has, a damaged log, a view that leaves a task empty, or
        returns that no log of a task knows.
      TaskError: tasks of unequal frames, or stores that disagree about a task.
    """

    def __init__(  # noqa: PLR0913  (where the data are, which of them, and this process's part)
        self,
        stores: Sequence[Store],
        tasks: Sequence[str],
        *,
        view: View,
        transitions: Transitions | Sequences,
        batch_size: int,
        seed: int,
        returns: bool = False,
        rank: int = 0,
        world: int = 1,
        prefetch: int = 2,
        pinned: bool = False,
    ):
        if not 0 <= rank < world <= batch_size or prefetch < 1:
            raise ConfigError(
                f"rank {rank} of {world} has no part in a batch of {batch_size}, or prefetch "
                f"{prefetch} is below 1"
            )
        if not tasks or len(set(tasks)) < len(tasks):
            raise TaskError(f"need one or more tasks, each named once, got {', '.join(tasks)}")
        logs = [_logs(stores, name) for name in tasks]
        _check_alike(logs)
        self.tasks: tuple[Task, ...] = tuple(group[0].task for group in logs)
        self.digest = _digest(logs)
        """Names the data (not the view) that batches come from."""
        pieces = [[(log, *view.piece(len(log))) for log in group] for group in logs]
        self._columns = Columns.load([piece for group in pieces for piece in group])
        self._reader = transitions.reader(self._columns)
        edges = self._columns.offsets[np.cumsum([0, *map(len, pieces)])].tolist()
        self._edges = edges
        if returns and isinstance(transitions, Transitions):
            _check_ends(self._columns, self.tasks, edges, gamma=transitions.gamma)
        among, lacking = self._reader.choosable, self._reader.lacking
        self._selections = [
            select(view, self._columns, first, last, task=task.name, among=among, lacking=lacking)
            for task, first, last in zip(self.tasks, edges, edges[1:], strict=False)
        ]
        self.sizes = np.array([len(selection) for selection in self._selections])
        """Transitions of each task in the view: int64 [N]."""
        self.waited = 0.0
        """Seconds that the consumer of `stream` waited for its last batch."""
        self._shares = view.shares([task.name for task in self.tasks], self.sizes)
        self._transitions, self._batch_size, self._seed = transitions, batch_size, seed
        self._part = slice(rank, None, world)
        self._prefetch, self._pinned, self._returns = prefetch, pinned, returns

    def batch(self, step: int) -> Batch | Windows:
        """This rank's part of the global batch of optimiser step `step`."""
        return self._complete(self._issue(step))

    def stream(self, start: int, stop: int) -> Generator[Batch | Windows, None, None]:
        """Batches of steps start..stop-1; a thread keeps the next ones ready.

        Closing the iterator ends the thread; what fails in the thread is raised here.
        """
        slots, closed = threading.Semaphore(self._prefetch), threading.Event()
        ready: queue.SimpleQueue[Batch | Windows | Exception] = queue.SimpleQueue()
        arguments = (range(start, stop), slots, closed, ready)
        thread = threading.Thread(target=self._fill, args=arguments, name="loader", daemon=True)
        thread.start()
        try:
            for _ in range(start, stop):
                began = time.perf_counter()
                batch = ready.get()
                self.waited = time.perf_counter() - began
                slots.release()
                if isinstance(batch, Exception):
                    raise batch
                yield batch
        finally:
            closed.set()
            slots.release()
            thread.join()

    def returns(self, step: int) -> Tensor:
        """Discounted sum of clipped rewards from each row of `batch(step)` to its episode's end.

        float32 [B]; NaN where that end is not in the log. Rewards whose weight is below 1e-4, or
        that lie 4,096 rows ahead, are left out. O(B * look-ahead): for logging steps. Windows have
        their undiscounted returns to go in themselves.
        """
        t = self._transitions
        assert isinstance(t, Transitions), "of transitions only"
        return torch.from_numpy(monte_carlo(self._future(self._rows(step)[1]), gamma=t.gamma))

    def episodes(self, step: int) -> np.ndarray:
        """Which episode, counted over all logs, each row of `batch(step)` is of: int64 [B]."""
        return np.searchsorted(self._starts, self._rows(step)[1], side="right") - 1

    def beginnings(self, task: int, most: int) -> "Beginnings":
        """The beginnings of at most `most` of a task's episodes, evenly over its logs."""
        t = self._transitions
        assert isinstance(t, Transitions), "of transitions only"
        first, last = self._edges[task : task + 2]
        rows = self._starts[(self._starts >= first) & (self._starts < last)]
        rows = rows[(self._columns.flags[rows] & USABLE) > 0]
        rows = rows[
            np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int))
        ]
        piece, at = self._columns.locate(rows)
        logs = [self._columns.pieces[p][0] for p in piece]
        reads = [
            log.read("frames", row, row + 1) for log, row in zip(logs, at.tolist(), strict=True)
        ]
        episodes = np.searchsorted(self._starts, rows, side="right") - 1
        return Beginnings(np.concatenate(reads), episodes, self._future(rows).reward)

    def _future(self, rows: np.ndarray) -> Walk:
        """What follows these rows [B], as far as it matters."""
        t = self._transitions
        assert isinstance(t, Transitions), "of transitions only"
        n = horizon(t.gamma)
        return walk(self._columns, rows, n=n, gamma=t.gamma, clip=t.reward_clip)

    @cached_property
    def _starts(self) -> np.ndarray:
        """Rows of the columns in which an episode starts."""
        return np.flatnonzero(self._columns.flags & START)

    def _rows(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """(task [B], row of the columns [B]) of this rank's part of step `step`."""
        task, index = sample(
            self.sizes, self._shares, seed=self._seed, step=step, batch=self._batch_size
        )
        task, index = task[self._part], index[self._part]
        rows = np.empty_like(index)
        for number in np.unique(task):
            here = task == number
            rows[here] = self._selections[number].rows(index[here])
        return task, rows

    def _issue(self, step: int) -> "_Reading":
        """Names a batch's rows and starts reading their frames."""
        task, rows = self._rows(step)
        chance = draws(seed=self._seed, step=step, batch=self._batch_size)[self._part]
        plan = self._reader.plan(task, rows, chance)
        if self._returns and isinstance(self._transitions, Transitions):
            gamma = self._transitions.gamma
            plan.numbers["returns"] = monte_carlo(self._future(rows), gamma=gamma)
        piece, first = self._columns.locate(plan.runs.first)
        logs = [self._columns.pieces[p][0] for p in piece]
        spans = zip(logs, first.tolist(), plan.runs.length.tolist(), strict=True)
        reads = [(log, log.frames[at : at + count].read()) for log, at, count in spans]
        return _Reading(plan, reads)

    def _complete(self, reading: "_Reading") -> Batch | Windows:
        """Waits for the frames and puts the batch together."""
        task, plan = self.tasks[0], reading.plan
        shape = (len(reading.frames), plan.held, *task.frame_shape)
        frames = np.zeros(shape, task.frame_dtype)
        places = zip(plan.runs.place.tolist(), plan.runs.length.tolist(), strict=True)
        for out, (log, future), (at, count) in zip(frames, reading.frames, places, strict=True):
            try:
                out[at : at + count] = future.result()
            except zarr.FAILURES as error:
                raise log.failure("frames", error) from error
        return self._reader.batch(frames, plan.numbers)

    def _fill(
        self,
        steps: range,
        slots: threading.Semaphore,
        closed: threading.Event,
        ready: "queue.SimpleQueue[Batch | Windows | Exception]",
    ) -> None:
        """The thread: the reads of a batch are under way while the one before is put together."""
        try:
            ahead = [self._issue(step) for step in steps[:1]]
            for step in steps:
                slots.acquire()
                if closed.is_set():
                    return
                ahead += [self._issue(following) for following in range(step + 1, steps.stop)[:1]]
                batch = self._complete(ahead.pop(0))
                ready.put(batch.pinned() if self._pinned else batch)
        except Exception as error:
            ready.put(error)


class Beginnings(NamedTuple):
    """How E episodes began."""

    frames: np.ndarray
    """[E *frame] their first."""
    episodes: np.ndarray
    """int64 [E] which they are, counted over all logs."""
    returns: np.ndarray
    """float64 [E] the discounted sum of clipped rewards that followed, as far as it is known."""


class _Reading(NamedTuple):
    """A batch whose frames are on their way."""

    plan: Plan
    frames: list[tuple[Log, "ts.Future[np.ndarray]"]]


def _logs(stores: Sequence[Store], task: str) -> list[Log]:
    logs = [log for store in stores if task in store for log in store[task]]
    if logs:
        return logs
    if len(stores) == 1:
        return list(stores[0][task])
    known = {name for store in stores for name in store.tasks}
    where = ", ".join(store.path for store in stores)
    raise DataError(f"no finished log of {task!r} in {where or 'no store'}; {suggest(task, known)}")


def _check_alike(groups: list[list[Log]]) -> None:
    """A task is the same in all its logs, and the frames of all tasks fit into one array."""
    for log, other in ((group[0], log) for group in groups for log in group):
        if log.task != other.task:
            raise TaskError(
                f"logs {log.path} and {other.path} disagree about {log.task.name}: "
                f"{log.task} and {other.task}; train from one of them"
            )
    first = groups[0][0].task
    for task in (group[0].task for group in groups):
        if (task.frame_shape, task.frame_dtype) != (first.frame_shape, first.frame_dtype):
            raise TaskError(
                f"{first.name} has frames of {first.frame_dtype} {first.frame_shape}, {task.name} "
                f"of {task.frame_dtype} {task.frame_shape}; one run takes tasks of equal frames"
            )


def _check_ends(
    columns: Columns, tasks: Sequence[Task], edges: Sequence[int], *, gamma: float
) -> None:
    """Some return of each task is known: its rows are edges[i]..edges[i + 1]-1."""
    over = (columns.flags & (ENDED | USABLE)) == (ENDED | USABLE)
    for task, first, last in zip(tasks, edges, edges[1:], strict=False):
        if not over[first:last].any() and last - first <= horizon(gamma):
            raise DataError(
                f"{task.name} has no episode that ends, so that no return were known; record whole "
                "episodes, or set objective.calibrated to false"
            )


def _digest(groups: list[list[Log]]) -> str:
    content = [[group[0].task.name, *(log.digest for log in group)] for group in groups]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
