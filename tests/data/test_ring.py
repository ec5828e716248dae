"""The ring: every batch against a slow reading of all that was ever put in."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scaledq.core.batch import Batch
from scaledq.core.errors import ConfigError, DataError
from scaledq.core.task import Task
from scaledq.data.loader import Transitions
from scaledq.data.ring import Ring, RingConfig
from scaledq.data.rows import COLUMNS
from scaledq.data.windows import NEGLIGIBLE

TASKS = tuple(Task(name=n, actions=3, frame_shape=(2,), frame_dtype="int32") for n in "ab")
SLOTS = 2
RING = len(TASKS) * SLOTS
EVERY = np.ones(RING, bool)


@dataclass
class Row:
    """One row as a log would have it."""

    action: int = -1
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    first: bool = False
    """Of its episode."""


@dataclass
class Play:
    """Feeds a ring with random episodes, and keeps every row. A frame is (slot, row)."""

    seed: int
    slots: list[list[Row]] = field(default_factory=lambda: [[] for _ in range(RING)])

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def frames(self) -> np.ndarray:
        return np.array([(slot, len(rows) - 1) for slot, rows in enumerate(self.slots)], np.int32)

    def begin(self, ring: Ring, mask: np.ndarray = EVERY) -> None:
        for slot in np.flatnonzero(mask):
            self.slots[slot].append(Row(first=True))
        ring.begin(mask, self.frames())

    def step(self, ring: Ring, *, end: float = 0.15) -> None:
        """One step of every slot, and the next episode where it ended one."""
        action = self.rng.integers(3, size=RING)
        reward = self.rng.normal(0, 2, RING).astype(np.float32)
        over = self.rng.random((2, RING)) < end
        terminated, truncated = over[0], over[1] & ~over[0]
        for slot, rows in enumerate(self.slots):
            first = rows[-1].first
            rows[-1] = Row(action[slot], reward[slot], terminated[slot], truncated[slot], first)
            rows.append(Row())
        ring.add(EVERY, action, reward, terminated, truncated, self.frames())
        self.begin(ring, terminated | truncated)


def make(capacity: int = 1_000, *, stack: int = 3, n: int = 2, kind: str = "plain") -> Ring:
    cfg = RingConfig(capacity=capacity, frames=kind)  # pyright: ignore[reportArgumentType]
    transitions = Transitions(stack=stack, n_step=n, gamma=0.9)
    return Ring(
        cfg, TASKS, slots=SLOTS, transitions=transitions, batch_size=16, seed=5, returns=True
    )


def drawn(batch: Batch) -> list[tuple[int, int]]:
    """(slot, row) of every sample: its newest observed frame says so."""
    return [(int(slot), int(row)) for slot, row in batch.obs[:, -1]]


def stack_at(play: Play, slot: int, row: int, stack: int) -> np.ndarray:
    frames = np.zeros((stack, 2), np.int32)
    for place in range(stack - 1, -1, -1):
        frames[place] = (slot, row)
        if play.slots[slot][row].first:
            break
        row -= 1
    return frames


def future_of(rows: list[Row], gamma: float) -> float:
    """The discounted sum to the episode's end; not a number where it has not ended."""
    total = 0.0
    for k, row in enumerate(rows):
        if row.action < 0:
            return float("nan")
        total += gamma**k * np.clip(row.reward, -1, 1)
        if row.terminated or row.truncated or gamma ** (k + 1) <= NEGLIGIBLE:
            return total
    raise AssertionError("the newest row has no action")


def assert_reads(play: Play, batch: Batch, t: Transitions) -> None:
    """Every sample is what stepping through the slot's rows by hand gives."""
    for number, (slot, row) in enumerate(drawn(batch)):
        rows, total, steps = play.slots[slot], 0.0, 0
        for k in range(t.n_step):
            here = rows[row + k]
            if here.action < 0:
                break
            total, steps = total + t.gamma**k * np.clip(here.reward, -1, 1), k + 1
            if here.terminated or here.truncated:
                break
        last = rows[row + steps - 1]
        assert batch.task[number] == slot // SLOTS
        assert batch.action[number] == rows[row].action >= 0
        assert batch.steps[number] == steps
        np.testing.assert_allclose(batch.reward[number], total, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(batch.step_reward[number], np.clip(rows[row].reward, -1, 1))
        expected = 0.0 if last.terminated else t.gamma**steps
        np.testing.assert_allclose(batch.discount[number], expected, rtol=1e-6)
        np.testing.assert_array_equal(batch.obs[number], stack_at(play, slot, row, t.stack))
        assert batch.returns is not None
        future = future_of(rows[row:], t.gamma)
        assert float(batch.returns[number]) == pytest.approx(future, abs=1e-3, nan_ok=True)
        after = stack_at(play, slot, row + steps, t.stack)
        np.testing.assert_array_equal(batch.next_obs[number], after)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 1_000),
    stack=st.integers(1, 4),
    n=st.integers(1, 4),
    room=st.integers(0, 20),
    end=st.sampled_from([0.0, 0.15, 0.5, 1.0]),
    kind=st.sampled_from(["plain", "zstd"]),
)
def test_every_sample_is_what_a_slow_reading_gives(
    seed: int, stack: int, n: int, room: int, end: float, kind: str
) -> None:
    ring = make((stack + n + 1 + room) * SLOTS, stack=stack, n=n, kind=kind)
    play = Play(seed)
    play.begin(ring)
    for step in range(45):
        play.step(ring, end=end)
        if step % 7 == 0:
            assert_reads(play, ring.batch(step), ring.transitions)
    oldest = ring.rows - ring.length
    for step in range(20):
        assert all(row >= oldest[slot] for slot, row in drawn(ring.batch(step)))


def test_all_that_is_held_is_drawn_equally_often() -> None:
    ring, play = make(40 * SLOTS), Play(0)
    play.begin(ring)
    for _ in range(100):
        play.step(ring)
    # Whole stacks only: a ring that has gone round keeps S - 1 rows for those after them.
    held = {
        (slot, row)
        for slot, rows in enumerate(play.slots)
        for row in range(len(rows) - 40 + 2, len(rows))
        if rows[row].action >= 0
    }
    counts: dict[tuple[int, int], int] = {}
    for step in range(1_000):
        for place in drawn(ring.batch(step)):
            counts[place] = counts.get(place, 0) + 1
    assert set(counts) == held
    assert len(ring) == len(held)
    for task in range(len(TASKS)):
        of_task = [count for (slot, _), count in counts.items() if slot // SLOTS == task]
        assert sum(of_task) == pytest.approx(8_000, rel=0.05), "tasks are equal"
        # The mean is about 120 draws: five deviations of a Poisson count.
        assert np.abs(np.array(of_task) - np.mean(of_task)).max() < 5 * np.mean(of_task) ** 0.5


def test_nothing_is_lost_while_there_is_room_and_batches_are_a_function_of_the_step() -> None:
    rings = [make(kind="plain"), make(kind="zstd")]
    for ring in rings:
        play = Play(3)
        play.begin(ring)
        for _ in range(50):
            play.step(ring)
        assert len(ring) == 50 * RING
    for step in (0, 1, 7):
        a, b = (ring.batch(step) for ring in rings)
        assert_same(a, b)
        assert_same(a, rings[0].batch(step))
    assert not torch.equal(rings[0].batch(0).frames, rings[0].batch(1).frames)


def assert_same(one: Batch, other: Batch) -> None:
    for name in ("frames", "task", "action", "reward", "step_reward", "discount", "steps"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert one.returns is not None
    assert other.returns is not None
    torch.testing.assert_close(one.returns, other.returns, rtol=0, atol=0, equal_nan=True)


def restored(ring: Ring, play: Play, *, playing: np.ndarray, missing: np.ndarray) -> Ring:
    """Another ring, from what a log would hold: all rows but the newest of `missing` slots."""
    other = make(ring.cfg.capacity, stack=ring.transitions.stack, n=ring.transitions.n_step)
    for slot, rows in enumerate(play.slots):
        log = rows[: len(rows) - int(missing[slot])]
        columns = [
            np.array([getattr(row, name) for row in log], dtype) for name, dtype in COLUMNS.items()
        ]
        other.restore(slot, *columns, rows=len(log), playing=bool(playing[slot]))
        kept = max(0, len(rows) - ring.length)
        frames = np.array([(slot, row) for row in range(kept, len(rows))], np.int32)
        other.put(slot, kept, frames)
    return other


@pytest.mark.parametrize("capacity", [6 * SLOTS, 20 * SLOTS, 1_000])
@pytest.mark.parametrize("steps", [0, 3, 45])
def test_a_ring_made_again_from_logs_goes_on_as_if_nothing_had_been(
    capacity: int, steps: int
) -> None:
    for seed in range(5):
        ring, play = make(capacity), Play(seed)
        play.begin(ring)
        for _ in range(steps):
            play.step(ring, end=0.3)
        again = restored(ring, play, playing=EVERY, missing=EVERY)
        for step in range(12):
            if steps or step:
                assert len(again) == len(ring)
                assert_same(ring.batch(step), again.batch(step))
            state = play.rng.bit_generator.state
            before = [list(rows) for rows in play.slots]
            play.step(ring, end=0.3)
            play.rng.bit_generator.state, play.slots = state, before
            play.step(again, end=0.3)


def test_slots_that_stopped_amid_an_episode_are_made_again_too() -> None:
    ring, play = make(20 * SLOTS), Play(1)
    play.begin(ring)
    for _ in range(30):
        play.step(ring, end=0.0)
    stopped = np.array([True, False, True, False])
    ring.cut(stopped)
    again = restored(ring, play, playing=~stopped, missing=EVERY)
    for step in range(20):
        batch = ring.batch(step)
        assert_same(batch, again.batch(step))
        newest = [len(play.slots[slot]) - 2 for slot, _ in drawn(batch)]
        assert all(
            row < newest[i] or not stopped[slot] for i, (slot, row) in enumerate(drawn(batch))
        )


def test_slots_that_stopped_at_an_episodes_end_are_made_again_too() -> None:
    ring, play = make(20 * SLOTS), Play(1)
    play.begin(ring)
    for _ in range(30):
        play.step(ring, end=0.2)
    action, zeros = np.zeros(RING, np.int64), np.zeros(RING, np.float32)
    over = np.array([True, False, False, True])
    for rows, last in zip(play.slots, over, strict=True):
        rows[-1] = Row(0, 0.0, bool(last), False, rows[-1].first)
        rows.append(Row())
    ring.add(EVERY, action, zeros, over, np.zeros(RING, bool), play.frames())
    again = restored(ring, play, playing=~over, missing=~over)
    np.testing.assert_array_equal(again.rows, ring.rows)
    for step in range(20):
        assert_same(ring.batch(step), again.batch(step))


@pytest.mark.parametrize(("capacity", "least"), [(5 * SLOTS, 12), (1, 12), (0, 12)])
def test_a_capacity_without_room_for_a_sample_is_refused(capacity: int, least: int) -> None:
    with pytest.raises(ConfigError, match=rf"ring\.capacity: .* take at least {least}$"):
        make(capacity)
    assert make(least).length == 6


def test_more_frames_than_there_is_memory_are_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"GiB, more than there is; .* zstd"):
        make(10**15)


def test_a_task_without_a_transition_cannot_be_drawn_from() -> None:
    ring, play = make(), Play(0)
    with pytest.raises(DataError, match="no transition of a"):
        ring.batch(0)
    play.begin(ring)
    with pytest.raises(DataError, match="no transition of a"):
        ring.batch(0)
