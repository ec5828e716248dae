"""Action logs: small files from which the emulator makes a store again, bit for bit."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaledq.core.errors import DataError
from scaledq.core.protocol import Protocol
from scaledq.core.task import Task
from scaledq.data.sources.action_log import (
    NAME,
    ActionLog,
    Checksum,
    Ended,
    Episode,
    Header,
    find,
    load,
)
from scaledq.data.store import Log, open_store
from scaledq.run.collect import CollectConfig, collect
from scaledq.run.regenerate import regenerate

SHORT = Protocol(name="short", sticky=0.25, step_cap=40)
HEADER = Header(
    task=Task(name="T", actions=4, frame_shape=(2,)),
    name="log",
    behaviour="random",
    protocol=SHORT,
    source={"seed": "0"},
    versions={"ale-py": "1"},
)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two games, three logs each, of episodes that the step cap cuts and ones that it does not."""
    store = tmp_path_factory.mktemp("recorded")
    collect(CollectConfig(tasks=("Breakout", "Pong"), steps=400, slots=3, protocol=SHORT), store)
    return store


def rows(log: Log) -> list[np.ndarray]:
    """Every array of a log, whole."""
    return [log.array(name).read().result() for name in ("frames", "action", "reward")] + [
        log.terminated,
        log.truncated,
    ]


def files(folder: Path) -> dict[str, bytes]:
    """Everything below a folder, but for recordings' own files."""
    paths = (p for p in folder.rglob("*") if p.is_file() and ".recording" not in p.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_a_store_made_again_has_the_same_files(recorded: Path, tmp_path: Path) -> None:
    regenerate(recorded, tmp_path)
    assert files(tmp_path) == files(recorded)


def test_a_slice_of_every_log_is_that_part_of_its_rows(recorded: Path, tmp_path: Path) -> None:
    regenerate(recorded, tmp_path, episodes=slice(1, 3), tasks=["Breakout"])
    assert open_store(tmp_path).tasks == ("Breakout",)
    for whole, part in zip(
        open_store(recorded)["Breakout"], open_store(tmp_path)["Breakout"], strict=True
    ):
        closing = np.flatnonzero(whole.action == -1)
        span = slice(closing[0] + 1, closing[2] + 1)
        for a, b in zip(rows(whole), rows(part), strict=True):
            np.testing.assert_array_equal(a[span], b)


def test_one_file_makes_one_log(recorded: Path, tmp_path: Path) -> None:
    (manifest,) = regenerate(recorded / "Pong" / "persistent-s0-01" / NAME, tmp_path)
    (original,) = [x for x in open_store(recorded)["Pong"] if x.name == "persistent-s0-01"]
    assert manifest == original.manifest


def test_an_action_log_takes_at_most_a_byte_a_step_and_a_header(recorded: Path) -> None:
    for logs in find(recorded).values():
        for log in logs:
            file = recorded / log.header.task.name / log.header.name / NAME
            assert file.stat().st_size < 2_500 + log.steps + 40 * len(log.episodes)


def test_a_changed_action_is_found_and_its_episode_named(recorded: Path, tmp_path: Path) -> None:
    log = load(recorded / "Pong" / "persistent-s0-02" / NAME)
    episode = log.episodes[1]
    other = replace(episode, actions=(episode.actions + 3) % 6)
    broken = replace(log, episodes=(log.episodes[0], other, *log.episodes[2:]))
    broken.save(tmp_path / "broken.npz")
    with pytest.raises(DataError, match=r"episode 1 of Pong/persistent-s0-02 does not come out"):
        regenerate(tmp_path / "broken.npz", tmp_path / "store")
    assert open_store(tmp_path / "store").tasks == ()


@pytest.mark.parametrize(("name", "there"), [("ale-py", "0.0.1"), ("ROM", "0" * 32)])
def test_another_emulator_or_rom_is_refused_and_both_are_named(
    recorded: Path, tmp_path: Path, name: str, there: str
) -> None:
    log = load(recorded / "Pong" / "persistent-s0-00" / NAME)
    here = log.header.versions[name]
    versions = log.header.versions | {name: there}
    replace(log, header=replace(log.header, versions=versions)).save(tmp_path / "a.npz")
    with pytest.raises(DataError, match=rf"{name} {there}.*{here}"):
        regenerate(tmp_path / "a.npz", tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_slice_beyond_every_log_is_refused(recorded: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="900:901"):
        regenerate(recorded, tmp_path, episodes=slice(900, 901))


def test_a_log_that_the_store_has_is_refused(recorded: Path) -> None:
    with pytest.raises(DataError, match="finished already"):
        regenerate(recorded, recorded)


def test_an_unknown_task_is_refused_with_what_there_is(recorded: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no action log of Qbert.*Breakout, Pong"):
        regenerate(recorded, tmp_path, tasks=["Qbert"])


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), max_size=5),
    actions=st.sampled_from((4, 18, 300)),
    seed=st.integers(0, 2**31 - 1),
)
def test_a_file_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], actions: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    episodes = tuple(
        Episode(
            int(rng.integers(2**31)),
            Ended(int(rng.integers(4))),
            int(rng.integers(2**64, dtype=np.uint64)),
            rng.integers(actions, size=n).astype(np.int16),
        )
        for n in lengths
    )
    log = ActionLog(replace(HEADER, task=replace(HEADER.task, actions=actions)), episodes)
    path = tmp_path_factory.mktemp("file") / NAME
    log.save(path)
    back = load(path)
    assert back.header == log.header
    assert [(e.seed, e.ended, e.checksum) for e in back.episodes] == [
        (e.seed, e.ended, e.checksum) for e in episodes
    ]
    for a, b in zip(back.episodes, episodes, strict=True):
        np.testing.assert_array_equal(a.actions, b.actions)


@settings(deadline=None)
@given(cuts=st.lists(st.integers(0, 10), max_size=4), place=st.integers(0, 9))
def test_a_checksum_does_not_depend_on_pieces_but_on_every_row(cuts: list[int], place: int) -> None:
    frames = np.arange(20, dtype=np.uint8).reshape(10, 2)
    columns = [np.arange(10, dtype=np.float32), np.zeros(10, bool), np.zeros(10, bool)]

    def total(pieces: list[int]) -> int:
        checksum = Checksum()
        edges = [0, *sorted(pieces), 10]
        for a, b in pairwise(edges):
            checksum.add(frames[a:b], columns[0][a:b], columns[1][a:b], columns[2][a:b])
        return checksum.value

    whole = total([])
    assert total(cuts) == whole
    for column in columns:
        before = column[place]
        column[place] = before + 1
        assert total([]) != whole
        column[place] = before
    frames[place, 1] ^= 1
    assert total([]) != whole


@pytest.mark.parametrize("damage", ["cut", "empty", "flip", "no_actions", "steps", "format"])
def test_a_damaged_file_is_one_clear_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / NAME
    actions = np.arange(200, dtype=np.int16) % 4
    ActionLog(HEADER, (Episode(1, Ended.TERMINATED, 2, actions),)).save(path)
    data = path.read_bytes()
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    if damage in ("cut", "empty", "flip"):
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]
        path.write_bytes({"cut": data[:middle], "empty": b"", "flip": flipped}[damage])
    elif damage == "format":
        header = json.loads(arrays["header"].tobytes()) | {"format": 9}
        arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
        np.savez(path, allow_pickle=False, **arrays)
    else:
        if damage == "no_actions":
            del arrays["actions"]
        else:
            arrays["steps"] = arrays["steps"] + 1
        np.savez(path, allow_pickle=False, **arrays)
    with pytest.raises(DataError, match=r"actions\.npz"):
        load(path)


def test_a_missing_file_or_an_empty_folder_is_one_clear_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no.npz"):
        with pytest.raises(DataError, match="no action log"):
            find(path)
