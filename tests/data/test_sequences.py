"""Windows against a slow reading of the logs, episode by episode."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from scaledq.core.batch import Windows
from scaledq.core.errors import ConfigError, DataError
from scaledq.core.task import Task
from scaledq.data.loader import Loader
from scaledq.data.sequences import Sequences, shifted, shifts
from scaledq.data.store import open_store
from scaledq.data.view import First, View

from .test_loader import PICTURES, VECTORS, Episode, episodes, loader_of, make_stores, step_exists

PLAIN = Sequences(shift=0)
HOW = [PLAIN, Sequences(context=1, shift=0, reward_clip=None), Sequences(context=9, shift=0)]


def to_go_by_hand(episode: Episode, t: int, clip: float) -> float:
    """The rest of the episode; not a number where its end is not known."""
    ended = episode.terminated or episode.truncated
    if not ended or not step_exists(episode, len(episode.actions) - 1):
        return np.nan
    return sum(max(-clip, min(clip, r)) for r in episode.rewards[t:])


def windows_by_hand(rows, how: Sequences) -> dict[bytes, dict[str, np.ndarray]]:
    """Every window of a log, by the bytes of its first frame."""
    clip, found = how.reward_clip or np.inf, {}
    for episode in episodes(rows):
        for t in range(len(episode.actions)):
            steps = 0
            while steps < how.context and step_exists(episode, t + steps):
                steps += 1
            if not steps:
                continue
            shape = (how.context, *episode.observations[0].shape)
            frames = np.zeros(shape, episode.observations[0].dtype)
            action, reward = np.zeros(how.context), np.zeros(how.context)
            for place in range(steps):
                frames[place] = episode.observations[t + place]
                action[place] = episode.actions[t + place]
                reward[place] = max(-clip, min(clip, episode.rewards[t + place]))
            found[frames[0].tobytes()] = {
                "frames": frames,
                "action": action,
                "reward": reward,
                "steps": np.array(steps),
                "return_to_go": np.array(to_go_by_hand(episode, t, clip)),
            }
    return found


@pytest.fixture(scope="module")
def stores(tmp_path_factory, random_rows, write):
    """Two stores of pictures, and their rows."""
    return make_stores(tmp_path_factory.mktemp("windows"), PICTURES, random_rows, write)


def read(loader: Loader, step: int) -> Windows:
    found = loader.batch(step)
    assert isinstance(found, Windows)
    return found


@pytest.mark.parametrize("returns", [True, False])
@pytest.mark.parametrize("how", HOW, ids=str)
def test_windows_are_those_of_a_slow_reading(how: Sequences, returns: bool, stores) -> None:
    folders, truth = stores
    how = replace(how, returns=returns)
    loader = loader_of(folders, transitions=how, batch_size=256)
    expected = []
    for logs in truth:
        every = {k: w for rows in logs for k, w in windows_by_hand(rows, how).items()}
        known = {k: w for k, w in every.items() if not np.isnan(w["return_to_go"])}
        assert len(known) < len(every)
        expected.append(known if returns else every)
    assert loader.sizes.tolist() == [len(found) for found in expected]
    seen = [set() for _ in PICTURES]
    for step in range(10):
        windows = read(loader, step)
        for row, task in enumerate(windows.task.tolist()):
            key = windows.frames[row, 0].numpy().tobytes()
            seen[task].add(key)
            for name, value in expected[task][key].items():
                got = getattr(windows, name)[row].numpy()
                np.testing.assert_allclose(got, value, rtol=1e-5, atol=1e-5, err_msg=name)
        lengths = windows.real.sum(-1)
        assert torch.equal(lengths, windows.steps)
        assert not windows.action[~windows.real].any()
    assert seen == [set(found) for found in expected]


def test_windows_stop_at_a_views_cut(stores) -> None:
    folders, truth = stores
    loader = loader_of(folders, transitions=PLAIN, view=View(rows=First(fraction=0.5)))
    halves = [[rows[: round(0.5 * len(rows))] for rows in logs] for logs in truth]
    expected = [
        {k: w for rows in logs for k, w in windows_by_hand(rows, PLAIN).items()} for logs in halves
    ]
    windows = read(loader, 0)
    for row, task in enumerate(windows.task.tolist()):
        found = expected[task][windows.frames[row, 0].numpy().tobytes()]
        assert int(windows.steps[row]) == found["steps"]
        assert float(windows.return_to_go[row]) == pytest.approx(found["return_to_go"], abs=1e-5)


def test_ranks_share_the_global_windows_and_a_step_is_a_function_of_its_number(stores) -> None:
    folders, how = stores[0], Sequences(shift=2)
    whole = read(loader_of(folders, transitions=how), 5)
    parts = [read(loader_of(folders, transitions=how, rank=r, world=2), 5) for r in range(2)]
    for rank, part in enumerate(parts):
        assert torch.equal(part.frames, whole.frames[rank::2])
        assert torch.equal(part.action, whole.action[rank::2])
    assert whole.noise == parts[0].noise != parts[1].noise
    stream = loader_of(folders, transitions=how).stream(3, 7)
    for step, windows in zip(range(3, 7), stream, strict=True):
        assert isinstance(windows, Windows)
        again = read(loader_of(folders, transitions=how), step)
        assert torch.equal(windows.frames, again.frames)
        assert windows.noise == again.noise


def test_pictures_of_a_window_move_together_and_by_no_more_than_said(stores) -> None:
    folders = stores[0]
    plain = read(loader_of(folders, transitions=PLAIN, batch_size=512), 0)
    moved = read(loader_of(folders, transitions=Sequences(shift=1), batch_size=512), 0)
    for name in ("task", "action", "reward", "steps", "return_to_go"):
        assert torch.equal(getattr(plain, name), getattr(moved, name))
    found = set()
    for before, after in zip(plain.frames.numpy(), moved.frames.numpy(), strict=True):
        ways = [
            (down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)
            if np.array_equal(moved_by_hand(before, down, right), after)
        ]  # fmt: skip
        assert ways
        found.add(ways[0])
    assert len(found) == 9


def moved_by_hand(frames: np.ndarray, down: int, right: int) -> np.ndarray:
    out = np.empty_like(frames)
    height, width = frames.shape[1:]
    for row in range(height):
        for column in range(width):
            source = (min(max(row - down, 0), height - 1), min(max(column - right, 0), width - 1))
            out[:, row, column] = frames[:, *source]
    return out


def test_a_shift_of_nothing_changes_nothing_and_all_are_equally_likely() -> None:
    frames = np.arange(2 * 5 * 4, dtype=np.uint8).reshape(2, 5, 4)
    np.testing.assert_array_equal(shifted(frames, 0, 0), frames)
    draws = np.random.default_rng(0).integers(1 << 62, size=20_000)
    counts = np.unique(shifts(draws, 2), axis=0, return_counts=True)[1]
    assert len(counts) == 25
    assert counts.min() > 600


def test_vectors_are_never_shifted(tmp_path: Path, random_rows, write) -> None:
    folders, _ = make_stores(tmp_path, VECTORS, random_rows, write)
    one, other = (
        read(loader_of(folders, VECTORS, transitions=Sequences(shift=s)), 0) for s in (0, 4)
    )
    assert torch.equal(one.frames, other.frames)


def test_without_a_finished_episode_there_are_no_returns(
    tmp_path: Path, write, random_rows
) -> None:
    task = Task(name="endless", actions=3, frame_shape=(4,))
    write(tmp_path, task, random_rows(task, 40, 0, end=0.0))
    with pytest.raises(DataError, match=r"endless lacks .* \(bc_transformer"):
        loader_of([open_store(tmp_path)], [task], transitions=PLAIN)
    loader = loader_of([open_store(tmp_path)], [task], transitions=replace(PLAIN, returns=False))
    assert loader.sizes.tolist() == [39]
    assert read(loader, 0).return_to_go.isnan().all()


@pytest.mark.parametrize(("field", "value"), [("context", 0), ("shift", -1), ("reward_clip", 0.0)])
def test_impossible_windows_are_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=field):
        replace(PLAIN, **{field: value})
