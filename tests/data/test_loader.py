"""Batches against a slow reading of the logs, episode by episode, from first principles."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from scaledq.core.batch import Batch, Windows
from scaledq.core.errors import ConfigError, DataError, TaskError
from scaledq.core.task import Task
from scaledq.data.loader import Loader, Transitions
from scaledq.data.store import open_store
from scaledq.data.view import First, View

PICTURES = (
    Task(name="Pong", actions=6, frame_shape=(6, 5)),
    Task(name="Qbert", actions=4, frame_shape=(6, 5)),
)
VECTORS = tuple(
    Task(name=name, actions=3, frame_shape=(4,), frame_dtype="float32") for name in ("a", "b")
)


@dataclass
class Episode:
    """Observations o_0.. (one more than actions, where the closing one is known)."""

    observations: list[np.ndarray] = field(default_factory=list)
    actions: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    terminated: bool = False
    truncated: bool = False


def episodes(rows) -> list[Episode]:
    """Reads a log as a person would: top to bottom."""
    found, current = [], Episode()
    for frame, action, reward, terminated, truncated in zip(*rows.columns(), strict=True):
        if action >= 0 and (current.terminated or current.truncated):
            found.append(current)
            current = Episode()
        current.observations.append(frame)
        if action < 0:
            found.append(current)
            current = Episode()
            continue
        current.actions.append(int(action))
        current.rewards.append(float(reward))
        current.terminated, current.truncated = bool(terminated), bool(truncated)
    return [*found, current]


@dataclass
class Sample:
    frames: np.ndarray
    action: int
    reward: float
    step_reward: float
    discount: float
    steps: int
    future: float


def step_exists(episode: Episode, t: int) -> bool:
    """Whether the t-th action of the episode has a known consequence."""
    if t >= len(episode.actions):
        return False
    ends_here = episode.terminated and t == len(episode.actions) - 1
    return ends_here or t + 1 < len(episode.observations)


def sample_by_hand(episode: Episode, t: int, how: Transitions) -> Sample:
    clip = np.inf if how.reward_clip is None else how.reward_clip
    clipped = [max(-clip, min(clip, r)) for r in episode.rewards]
    m, reward = 0, 0.0
    while m < how.n_step and step_exists(episode, t + m):
        reward += how.gamma**m * clipped[t + m]
        m += 1
    frames = np.zeros(
        (how.stack + how.n_step, *episode.observations[0].shape), episode.observations[0].dtype
    )
    for place in range(how.stack + m):
        moment = t - how.stack + 1 + place
        if 0 <= moment < len(episode.observations):
            frames[place] = episode.observations[moment]
    over = episode.terminated and t + m == len(episode.actions)
    return Sample(
        frames=frames,
        action=episode.actions[t],
        reward=reward,
        step_reward=clipped[t],
        discount=0.0 if over else how.gamma**m,
        steps=m,
        future=future_by_hand(episode, t, clipped, how.gamma),
    )


def future_by_hand(episode: Episode, t: int, clipped: list[float], gamma: float) -> float:
    """The return to the episode's end; not a number where the log does not know that end."""
    ended = episode.terminated or episode.truncated
    if not ended or not step_exists(episode, len(episode.actions) - 1):
        return np.nan
    return sum(gamma**k * r for k, r in enumerate(clipped[t:]))


def samples_by_hand(rows, how: Transitions) -> dict[bytes, Sample]:
    """Every transition of a log, by the bytes of the frame that the action was chosen at."""
    found = {}
    for episode in episodes(rows):
        for t in range(len(episode.actions)):
            if step_exists(episode, t):
                key = episode.observations[t].tobytes()
                assert key not in found
                found[key] = sample_by_hand(episode, t, how)
    return found


@pytest.fixture(scope="module")
def stores_of(tmp_path_factory, random_rows, write) -> Callable:
    """(tasks) -> (stores, the rows of each task's logs); made once."""

    @cache
    def make(tasks: tuple[Task, ...]) -> tuple[list, list]:
        return make_stores(tmp_path_factory.mktemp("stores"), tasks, random_rows, write)

    return make


def make_stores(
    folder: Path, tasks: tuple[Task, ...], random_rows: Callable, write: Callable
) -> tuple[list, list]:
    """Two stores, each with two logs of the first task and one of the second; and their rows."""
    truth, seed = [[] for _ in tasks], 0
    for store in ("one", "two"):
        for number, task in enumerate(tasks):
            for name in ("x", "y")[: 2 - number]:
                rows = random_rows(task, 20 + 10 * seed, seed=seed)
                write(folder / store, task, rows, name)
                truth[number].append(rows)
                seed += 1
    return [open_store(folder / "one"), open_store(folder / "two")], truth


def loader_of(stores, tasks=PICTURES, **changes) -> Loader:
    options = {
        "view": View(),
        "transitions": Transitions(),
        "batch_size": 64,
        "seed": 0,
    } | changes
    return Loader(stores, [task.name for task in tasks], **options)


HOW = [
    Transitions(),
    Transitions(stack=1, n_step=1, gamma=1.0, reward_clip=None),
    Transitions(stack=3, n_step=10, gamma=0.5, reward_clip=0.3),
    Transitions(stack=8, n_step=2, gamma=0.0),
]


@pytest.mark.parametrize("how", HOW, ids=str)
@pytest.mark.parametrize("tasks", [PICTURES, VECTORS], ids=["pictures", "vectors"])
def test_batches_are_those_of_a_slow_reading(how, tasks, stores_of) -> None:
    stores, truth = stores_of(tasks)
    loader = loader_of(stores, tasks, transitions=how, batch_size=256, returns=True)
    expected = [
        {k: s for rows in logs for k, s in samples_by_hand(rows, how).items()} for logs in truth
    ]
    assert loader.tasks == tasks
    assert loader.sizes.tolist() == [len(samples) for samples in expected]
    seen = [set() for _ in tasks]
    for step in range(12):
        batch, returns = transitions(loader.batch(step)), loader.returns(step)
        assert batch.returns is not None
        assert torch.equal(batch.returns.nan_to_num(9), returns.nan_to_num(9))
        assert batch.frames.shape == (256, how.stack + how.n_step, *tasks[0].frame_shape)
        for row, task in enumerate(batch.task.tolist()):
            key = batch.frames[row, how.stack - 1].numpy().tobytes()
            seen[task].add(key)
            assert_row(batch, row, float(returns[row]), expected[task][key], how)
    assert seen == [set(samples) for samples in expected]


def assert_row(batch: Batch, row: int, returns: float, expected: Sample, how: Transitions) -> None:
    np.testing.assert_array_equal(batch.frames[row].numpy(), expected.frames)
    for name in ("action", "steps"):
        assert int(getattr(batch, name)[row]) == getattr(expected, name)
    for name in ("reward", "step_reward", "discount"):
        value = float(getattr(batch, name)[row])
        assert value == pytest.approx(getattr(expected, name), rel=1e-5, abs=1e-6)
    if how.gamma >= 0.99:  # a smaller gamma stops looking before it meets an end
        assert returns == pytest.approx(expected.future, rel=1e-4, abs=1e-4, nan_ok=True)


def test_next_obs_is_the_stack_that_was_seen_m_steps_later(stores_of) -> None:
    stores, truth = stores_of(PICTURES)
    how = Transitions(n_step=3)
    later = {}
    for rows in truth[0]:
        for episode in episodes(rows):
            for t, frame in enumerate(episode.observations):
                stack = [
                    episode.observations[k] if k >= 0 else frame * 0 for k in range(t - 3, t + 1)
                ]
                later[frame.tobytes()] = np.stack(stack)
    loader = loader_of(stores, PICTURES[:1], transitions=how, batch_size=500)
    batch = transitions(loader.batch(0))
    known = batch.discount > 0
    for stack in batch.next_obs[known].numpy():
        np.testing.assert_array_equal(stack, later[stack[-1].tobytes()])


def test_returns_stop_looking_where_rewards_weigh_nothing(tmp_path, write, random_rows) -> None:
    task = PICTURES[0]
    rows = random_rows(task, 200, seed=0, end=0.0)
    write(tmp_path, task, rows)
    loader = loader_of([open_store(tmp_path)], [task], transitions=Transitions(gamma=0.5))
    first = {frame.tobytes(): row for row, frame in enumerate(rows.frames)}
    batch, returns = transitions(loader.batch(0)), loader.returns(0)
    for stack, found in zip(batch.obs.numpy(), returns.tolist(), strict=True):
        ahead = np.clip(rows.reward[first[stack[-1].tobytes()] :], -1, 1)
        if len(ahead) > 14:  # 2**-14 is below 1e-4
            expected = ahead @ 0.5 ** np.arange(len(ahead))
            assert found == pytest.approx(expected, abs=2e-4)
        else:
            assert np.isnan(found)


def test_returns_that_nothing_in_the_logs_tells_are_refused(tmp_path, write, random_rows) -> None:
    write(tmp_path, PICTURES[0], random_rows(PICTURES[0], 50, seed=0, end=0.0))
    with pytest.raises(
        DataError, match=r"no episode that ends.*set objective\.calibrated to false"
    ):
        loader_of([open_store(tmp_path)], PICTURES[:1], returns=True)


def test_a_cut_view_looks_at_no_frame_or_reward_beyond_the_cut(
    tmp_path, random_rows, write
) -> None:
    task, how = PICTURES[0], Transitions(n_step=5)
    rows = random_rows(task, 300, seed=0)
    write(tmp_path, task, rows)
    view = View(rows=First(fraction=0.5))
    loader = loader_of([open_store(tmp_path)], [task], view=view, transitions=how, batch_size=500)
    expected = samples_by_hand(rows[:150], how)
    batch = loader.batch(0)
    assert loader.sizes.tolist() == [len(expected)]
    for row, frames in enumerate(batch.frames.numpy()):
        np.testing.assert_array_equal(frames, expected[frames[3].tobytes()].frames)
        assert float(batch.reward[row]) == pytest.approx(
            expected[frames[3].tobytes()].reward, rel=1e-5, abs=1e-6
        )


def transitions(batch: Batch | Windows) -> Batch:
    assert isinstance(batch, Batch)
    return batch


def fields(batch: Batch | Windows) -> list[torch.Tensor]:
    names = ("frames", "task", "action", "reward", "step_reward", "discount", "steps")
    return [getattr(batch, name) for name in names]


@pytest.mark.parametrize("world", [2, 3])
def test_the_ranks_parts_make_up_the_global_batch(world, stores_of) -> None:
    stores, _ = stores_of(PICTURES)
    whole, returns = loader_of(stores).batch(5), loader_of(stores).returns(5)
    for rank in range(world):
        part = loader_of(stores, rank=rank, world=world)
        for mine, all_rows in zip(fields(part.batch(5)), fields(whole), strict=True):
            torch.testing.assert_close(mine, all_rows[rank::world], rtol=0, atol=0)
        torch.testing.assert_close(part.returns(5), returns[rank::world], equal_nan=True)


def test_a_stream_is_its_batches_wherever_it_starts(stores_of) -> None:
    stores, _ = stores_of(PICTURES)
    loader = loader_of(stores)
    for step, batch in enumerate(loader.stream(3, 9), 3):
        for streamed, alone in zip(
            fields(batch), fields(loader_of(stores).batch(step)), strict=True
        ):
            assert torch.equal(streamed, alone)
        assert loader.waited >= 0
    assert list(loader.stream(4, 4)) == []


def test_the_digest_names_the_data_and_not_where_they_lie(tmp_path, random_rows, write) -> None:
    rows = random_rows(PICTURES[0], 50, seed=0)
    write(tmp_path / "a", PICTURES[0], rows, "x")
    write(tmp_path / "b", PICTURES[0], rows, "y")
    write(tmp_path / "c", PICTURES[0], rows[:40], "x")
    a, b, c = (
        loader_of([open_store(tmp_path / name)], PICTURES[:1]).digest for name in ("a", "b", "c")
    )
    assert a == b != c


class Watched(Loader):
    """Tells how many batches its thread has completed."""

    def watch(self) -> threading.Semaphore:
        self.completed = threading.Semaphore(0)
        return self.completed

    def _complete(self, reading):
        batch = super()._complete(reading)
        self.completed.release()
        return batch


def test_the_next_batches_are_read_while_the_consumer_is_busy(stores_of) -> None:
    stores, _ = stores_of(PICTURES)
    options = {"view": View(), "transitions": Transitions(), "batch_size": 8, "seed": 0}
    loader = Watched(stores, ["Pong"], **options, prefetch=3)
    completed = loader.watch()
    stream = loader.stream(0, 100)
    next(stream)
    for _ in range(4):  # the one that was handed out, and three more without being asked
        assert completed.acquire(timeout=60)
    assert not completed.acquire(timeout=0.2)
    next(stream)
    assert completed.acquire(timeout=60)
    stream.close()
    assert not [t for t in threading.enumerate() if t.name == "loader"]


def test_an_error_in_the_thread_reaches_the_consumer_and_ends_it(
    tmp_path, random_rows, write
) -> None:
    write(tmp_path, PICTURES[0], random_rows(PICTURES[0], 300, seed=0))
    loader = loader_of([open_store(tmp_path)], PICTURES[:1])
    for shard in (tmp_path / "Pong" / "log" / "frames" / "c").iterdir():
        (shard / "0" / "0").write_bytes(b"no shard")
    with pytest.raises(DataError, match="Pong/log"):
        next(loader.stream(0, 10))
    assert not [t for t in threading.enumerate() if t.name == "loader"]


def test_tasks_of_unequal_frames_are_refused_by_name(tmp_path, random_rows, write) -> None:
    other = Task(name="Other", actions=6, frame_shape=(5, 6))
    for task in (PICTURES[0], other):
        write(tmp_path, task, random_rows(task, 30, seed=0))
    with pytest.raises(TaskError, match=r"Pong has frames of uint8 \(6, 5\), Other of uint8 \(5"):
        loader_of([open_store(tmp_path)], [PICTURES[0], other])


def test_stores_that_disagree_about_a_task_are_refused(tmp_path, random_rows, write) -> None:
    fewer = Task(name="Pong", actions=5, frame_shape=(6, 5))
    write(tmp_path / "a", PICTURES[0], random_rows(PICTURES[0], 30, seed=0))
    write(tmp_path / "b", fewer, random_rows(fewer, 30, seed=0))
    with pytest.raises(TaskError, match="disagree about Pong"):
        loader_of([open_store(tmp_path / "a"), open_store(tmp_path / "b")], PICTURES[:1])


def test_a_task_that_no_store_has_is_an_error_with_a_suggestion(stores_of) -> None:
    stores, _ = stores_of(PICTURES)
    misspelt = Task(name="Pongg", actions=6)
    for some in (stores, stores[:1]):
        with pytest.raises(DataError, match=r"'Pongg'.*did you mean Pong\?"):
            loader_of(some, [misspelt])
    with pytest.raises(TaskError, match="each named once"):
        loader_of(stores, [PICTURES[0], PICTURES[0]])


@pytest.mark.parametrize("changes", [{"rank": 2, "world": 2}, {"world": 65}, {"prefetch": 0}])
def test_impossible_parts_are_refused(changes, stores_of) -> None:
    stores, _ = stores_of(PICTURES)
    with pytest.raises(ConfigError):
        loader_of(stores, **changes)


@pytest.mark.parametrize(
    "changes", [{"stack": 0}, {"n_step": 0}, {"gamma": 1.01}, {"reward_clip": 0.0}]
)
def test_impossible_transitions_are_refused(changes) -> None:
    with pytest.raises(ConfigError, match="transitions"):
        Transitions(**changes)
