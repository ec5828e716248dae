"""DQN-Replay's files, pitfall by pitfall, against what the ring buffer is known to have held."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from scaledq.core.errors import DataError, TaskError
from scaledq.data.sources.dqn_replay import DQNReplay
from scaledq.data.sources.replay_files import part
from scaledq.data.sources.synthetic import Episode, Layout, toy_episodes, write_dqn_replay
from scaledq.data.store import Log, open_store


def nothing(rows: int) -> None:
    pass


def lay(root: Path, lengths: list[int], layout: Layout | None = None, **options: int):
    """Writes a Breakout run of toy episodes below `root` and returns what should be found."""
    episodes = toy_episodes(np.random.default_rng(0), lengths=lengths, actions=4, **options)
    return write_dqn_replay(root / "Breakout" / "1" / "replay_logs", episodes, layout)


def ingest(root: Path, **options: object) -> Log:
    (piece,) = DQNReplay(source=str(root), **options).pieces()  # pyright: ignore[reportArgumentType]
    store = f"{root}-store"
    piece.write(store, nothing)
    (log,) = open_store(store)["Breakout"]
    return log


def assert_holds(log: Log, truth) -> None:
    for name, values in truth._asdict().items():
        found = log.frames.read().result() if name == "frames" else getattr(log, name)
        np.testing.assert_array_equal(found, values, err_msg=name)


def rewrite(root: Path, name: str, number: int, values: np.ndarray) -> None:
    path = root / "Breakout" / "1" / "replay_logs" / part(name, number)
    with gzip.open(path, "wb") as file:
        np.save(file, values)


def stored(root: Path, name: str, number: int) -> np.ndarray:
    with gzip.open(root / "Breakout" / "1" / "replay_logs" / part(name, number)) as file:
        return np.load(file)


def test_every_row_of_a_run_comes_back_in_time_order(tmp_path: Path) -> None:
    truth = lay(tmp_path, [40, 7, 90, 33, 60, 51, 12])
    log = ingest(tmp_path)
    assert_holds(log, truth)
    assert log.manifest.source["files"] == "0-3"
    assert log.manifest.protocol is not None
    assert log.manifest.protocol.sticky == 0.25


@settings(max_examples=20, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=16),
    capacity=st.integers(8, 90),
    padding=st.integers(0, 3),
    final=st.booleans(),
)
def test_any_episodes_in_any_ring_come_back(tmp_path_factory, lengths, capacity, padding, final):
    root = tmp_path_factory.mktemp("run")
    truth = lay(root, lengths, Layout(capacity=capacity, padding=padding, final=final))
    if len(truth.action):
        assert_holds(ingest(root, padding=padding), truth)


def test_the_stale_last_row_of_each_file_is_left_out(tmp_path: Path) -> None:
    truth = lay(tmp_path, [250], Layout(capacity=50, final=False))
    assert np.isnan(stored(tmp_path, "reward", 0)[-1])
    log = ingest(tmp_path)
    assert_holds(log, truth)
    assert len(log) == 5 * 49 - 3


def test_the_padding_before_episodes_is_left_out_and_black_frames_are_not(tmp_path: Path) -> None:
    black = Episode(np.zeros((9, 84, 84), np.uint8), np.zeros(9, np.int32), np.zeros(9, np.float32))
    truth = write_dqn_replay(tmp_path / "Breakout/1/replay_logs", [black] * 5)
    log = ingest(tmp_path)
    assert_holds(log, truth)
    assert (len(log), log.manifest.extra["padding_rows"]) == (45, 15)


def test_a_missing_file_is_named_and_gaps_are_a_choice(tmp_path: Path) -> None:
    truth = lay(tmp_path, [40] * 20, Layout(missing=(2,)))
    with pytest.raises(DataError, match=r"_observation_ckpt\.2\.gz and 4 more is missing.*0-1,3-8"):
        ingest(tmp_path)
    log = ingest(tmp_path, gaps=True)
    assert_holds(log, truth)
    assert len(log.manifest.extra["missing"]) == 5  # pyright: ignore[reportArgumentType]


def test_one_missing_part_is_named(tmp_path: Path) -> None:
    lay(tmp_path, [40] * 9)
    (tmp_path / "Breakout/1/replay_logs" / part("reward", 1)).unlink()
    with pytest.raises(DataError, match=r"\$store\$_reward_ckpt\.1\.gz is missing"):
        ingest(tmp_path)


def test_the_last_file_ends_where_its_add_count_says(tmp_path: Path) -> None:
    truth = lay(tmp_path, [40] * 6, Layout(capacity=100))
    assert int(stored(tmp_path, "add_count", 2)) == 6 * 43 % 100
    assert_holds(ingest(tmp_path), truth)


def test_a_last_file_that_repeats_the_one_before_is_left_out(tmp_path: Path) -> None:
    truth = lay(tmp_path, [96, 97], Layout(capacity=100))  # the second dump and the end coincide
    assert [int(stored(tmp_path, "add_count", n)) for n in range(3)] == [99, 199, 99]
    log = ingest(tmp_path)
    assert log.manifest.source["files"] == "0-2"
    assert_holds(log, truth)
    assert len(log) == 96 + 97


def test_an_episode_as_long_as_the_step_cap_is_truncated(tmp_path: Path) -> None:
    truth = lay(tmp_path, [50, 49, 50, 51, 50], Layout(capacity=60), step_cap=50)
    log = ingest(tmp_path, step_cap=50)
    assert_holds(log, truth)
    assert log.manifest.extra["time_outs"] == 2, "the third straddles the last file's joint"
    assert log.truncated[49]
    assert not log.terminated[49]


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("terminal", 2, "terminal 2"),
        ("terminal", 255, "terminal 255"),
        ("reward", np.nan, "reward nan"),
        ("reward", np.inf, "reward inf"),
        ("action", 4, "actions 0 to 3"),
        ("action", -1, "action -1"),
    ],
)
def test_an_impossible_value_is_named_and_dropping_it_cuts_there(
    tmp_path: Path, name: str, value: float, shown: str
) -> None:
    truth = lay(tmp_path, [60] * 6, Layout(damage={(1, 17): (name, value)}))
    with pytest.raises(DataError, match=rf"{name}_ckpt\.1\.gz: row 17 has .*{shown}"):
        ingest(tmp_path)
    assert not open_store(f"{tmp_path}-store").tasks
    log = ingest(tmp_path, damaged="drop")
    assert_holds(log, truth)
    assert log.manifest.extra["damaged_rows"] == 1


def test_files_do_not_join(tmp_path: Path) -> None:
    lay(tmp_path, [400], Layout(capacity=100, final=False))
    log = ingest(tmp_path)
    np.testing.assert_array_equal(np.flatnonzero(log.truncated), [95, 95 + 99, 95 + 198])
    assert not log.truncated[-1], "the log's end is no joint"


def test_the_first_files_are_the_first_part_of_the_run(tmp_path: Path) -> None:
    truth = lay(tmp_path, [30] * 20)
    log = ingest(tmp_path, files=2)
    np.testing.assert_array_equal(log.action, truth.action[: len(log)])
    assert log.manifest.source["files"] == "0-1"


def test_a_file_of_another_shape_or_dtype_is_named(tmp_path: Path) -> None:
    lay(tmp_path, [60] * 4)
    rewrite(tmp_path, "observation", 1, np.zeros((100, 84, 83), np.uint8))
    with pytest.raises(
        DataError, match=r"observation_ckpt\.1.*should be uint8 \(100, 84, 84\), is"
    ):
        ingest(tmp_path)
    rewrite(tmp_path, "observation", 1, np.ones((100, 84, 84), np.uint8))
    rewrite(tmp_path, "action", 0, np.zeros(100, np.int64))
    with pytest.raises(DataError, match=r"action_ckpt\.0.*should be int32 \(100,\), is int64"):
        ingest(tmp_path)
    rewrite(tmp_path, "action", 0, np.zeros(99, np.int32))
    with pytest.raises(DataError, match=r"action_ckpt\.0.*99 rows, the observations have 100"):
        ingest(tmp_path)


def test_unknown_games_runs_and_places_are_named(tmp_path: Path) -> None:
    lay(tmp_path, [60] * 4)
    with pytest.raises(TaskError, match="Breakout"):
        DQNReplay(source=str(tmp_path), tasks=("Brekout",)).pieces()
    with pytest.raises(TaskError, match="unknown game"):
        DQNReplay(source=str(tmp_path), tasks=("../Breakout",)).pieces()
    with pytest.raises(DataError, match="Breakout/7/replay_logs"):
        DQNReplay(source=str(tmp_path), runs=(7,)).pieces()
    with pytest.raises(DataError, match="no such file"):
        DQNReplay(source=str(tmp_path / "nowhere")).pieces()


def test_a_cut_off_file_leaves_no_log(tmp_path: Path) -> None:
    lay(tmp_path, [60] * 4)
    path = tmp_path / "Breakout/1/replay_logs" / part("observation", 1)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"observation_ckpt\.1\.gz: "):
        ingest(tmp_path)
    store = open_store(f"{tmp_path}-store")
    assert (store.tasks, store.unfinished) == ((), ("Breakout/run1",))
