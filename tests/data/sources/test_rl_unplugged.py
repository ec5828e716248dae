"""RL Unplugged's files against the episodes that were put into them."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import unplugged

from scaledq.core.errors import DataError
from scaledq.data.sources.rl_unplugged import RLUnplugged
from scaledq.data.store import Log, open_store

SHARDS = 3


def nothing(rows: int) -> None:
    pass


def lay(root: Path, *, shards: int = SHARDS) -> list[dict]:
    """Three episodes a shard; the second of each is cut."""
    rng = np.random.default_rng(0)
    episodes = [unplugged.episode(rng, n, 5 + n, cut=n % 3 == 1) for n in range(3 * shards)]
    for shard in range(shards):
        path = root / "Breakout" / f"run_1-{shard:05d}-of-{shards:05d}"
        unplugged.write_shard(path, episodes[3 * shard : 3 * shard + 3])
    return episodes


def ingest(root: Path, **options: object) -> Log:
    (piece,) = RLUnplugged(source=str(root), **options).pieces()  # pyright: ignore[reportArgumentType]
    piece.write(f"{root}-store", nothing)
    (log,) = open_store(f"{root}-store")["Breakout"]
    return log


def test_episodes_come_back_with_raw_rewards_and_closing_observations(tmp_path: Path) -> None:
    episodes = lay(tmp_path)
    log = ingest(tmp_path)
    frames, at = log.frames.read().result(), 0
    for one in episodes:
        features, length = one["features"], len(one["frames"])
        rows, last = slice(at, at + length), at + length - 1
        np.testing.assert_array_equal(frames[rows], one["frames"])
        np.testing.assert_array_equal(log.action[at:last], features["actions"][:-1])
        np.testing.assert_array_equal(log.reward[at:last], features["unclipped_rewards"][:-1])
        assert (log.action[last], log.reward[last]) == (-1, 0)
        ends = np.zeros(length, bool)
        ends[-2] = True
        np.testing.assert_array_equal(log.terminated[rows], ends & (not one["cut"]))
        np.testing.assert_array_equal(log.truncated[rows], ends & one["cut"])
        at += length
    assert at == len(log)
    assert log.manifest.extra["rewards"] == "raw"


def test_the_first_shards_are_the_first_part(tmp_path: Path) -> None:
    episodes = lay(tmp_path)
    assert len(ingest(tmp_path, shards=2)) == sum(len(one["frames"]) for one in episodes[:6])


def test_a_missing_shard_is_named_and_gaps_are_a_choice(tmp_path: Path) -> None:
    lay(tmp_path)
    (tmp_path / "Breakout" / "run_1-00001-of-00003").unlink()
    with pytest.raises(DataError, match="run_1-00001-of-00003 is missing"):
        ingest(tmp_path)
    log = ingest(tmp_path, gaps=True)
    assert log.manifest.extra["missing"] == ["run_1-00001-of-00003"]
    assert log.manifest.counts.episodes == 6


def test_files_of_two_sets_are_refused(tmp_path: Path) -> None:
    lay(tmp_path)
    lay(tmp_path, shards=2)
    with pytest.raises(DataError, match=r"files of \[2, 3\] shards"):
        ingest(tmp_path)


@pytest.mark.parametrize("place", [3, 9, 40, -3])
def test_a_changed_byte_fails_its_records_checksum(tmp_path: Path, place: int) -> None:
    lay(tmp_path)
    path = tmp_path / "Breakout" / "run_1-00001-of-00003"
    data = bytearray(gzip.decompress(path.read_bytes()))
    data[place] ^= 4
    path.write_bytes(gzip.compress(bytes(data)))
    record = 2 if place < 0 else 0
    with pytest.raises(DataError, match=rf"run_1-00001-of-00003: record {record}: the checksum"):
        ingest(tmp_path)
    assert not open_store(f"{tmp_path}-store").tasks


def test_the_shuffled_copy_is_refused_unless_order_does_not_matter(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shuffled = [unplugged.episode(rng, n, 6) for n in (7, 0, 3)]
    unplugged.write_shard(tmp_path / "Breakout" / "run_1-00000-of-00001", shuffled)
    with pytest.raises(DataError, match="record 1: an episode of checkpoint 0 after one of 2"):
        ingest(tmp_path)
    assert ingest(tmp_path, ordered=False).manifest.extra["episodes_out_of_order"] == 1


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("actions", np.array([0, 9, 0, 0, 0]), "row 1 has an action outside"),
        ("actions", np.array([0, 1, 0, 0]), "5 observations, 4 actions"),
        ("actions", np.ones(5, np.float32), "'actions' is float_list, not int64_list"),
        ("unclipped_rewards", np.array([0, 0, np.nan, 0, 0], np.float32), "row 2 has a reward"),
        ("discounts", np.array([1, 1, 0, 1, 0], np.float32), "row 1 has an end amid the episode"),
        ("discounts", np.array([1, 1, np.nan, 1, 0], np.float32), "row 1 has a discount"),
        ("observations", [unplugged.png(np.zeros((84, 83), np.uint8))] * 5, "picture of row 0"),
        ("observations", [b"no picture"] * 5, "picture of row 0"),
        ("checkpoint_idx", [1, 2], "2 values of 'checkpoint_idx' instead of one"),
        ("episode_idx", None, "no feature 'episode_idx'; it has actions"),
    ],
)
def test_an_impossible_episode_is_named(tmp_path: Path, name: str, value, fault: str) -> None:
    one = unplugged.episode(np.random.default_rng(0), 0, 5)
    one["features"][name] = value
    if value is None:
        del one["features"][name]
    unplugged.write_shard(tmp_path / "Breakout" / "run_1-00000-of-00001", [one])
    with pytest.raises(DataError, match=rf"run_1-00000-of-00001: record 0.*{fault}"):
        ingest(tmp_path)


def test_an_episode_longer_than_a_portion_is_whole(tmp_path: Path) -> None:
    one = unplugged.episode(np.random.default_rng(0), 0, 1030)
    unplugged.write_shard(tmp_path / "Breakout" / "run_1-00000-of-00001", [one])
    np.testing.assert_array_equal(ingest(tmp_path).frames.read().result(), one["frames"])
