"""Minari in both directions, against datasets that Minari itself wrote and reads."""

import json
import warnings
from pathlib import Path

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

from scaledq.core.errors import DataError, ScaledQError
from scaledq.core.task import Task
from scaledq.data.sources.minari import Minari
from scaledq.data.sources.minari_export import export_minari
from scaledq.data.store import Log, open_store
from scaledq.data.writer import LogWriter

SPACES = {
    "vector": gym.spaces.Box(-np.inf, np.inf, (4,), np.float32),
    "doubles": gym.spaces.Box(-1, 1, (2, 3), np.float64),
    "picture": gym.spaces.Box(0, 255, (40, 36, 3), np.uint8),
    "cell": gym.spaces.Discrete(16),
    "parts": gym.spaces.Dict(
        {
            "image": gym.spaces.Box(0, 255, (7, 7, 3), np.uint8),
            "direction": gym.spaces.Discrete(4),
            "pair": gym.spaces.Tuple(
                (gym.spaces.MultiBinary(3), gym.spaces.Box(0, 1, (2,), np.float32))
            ),
        }
    ),
}
LENGTHS = (5, 1, 12, 7)


def nothing(rows: int) -> None:
    pass


def columns(samples: list):
    if isinstance(samples[0], dict):
        return {key: columns([s[key] for s in samples]) for key in samples[0]}
    if isinstance(samples[0], tuple):
        return tuple(columns(list(part)) for part in zip(*samples, strict=True))
    return samples


def write(
    root: Path, space: gym.Space, *, identity: str = "shop/till-v0", start: int = 0, **how: object
) -> Path:
    """A dataset of four episodes: one terminates, one is truncated, two just stop."""
    folder = root / identity / "data"
    folder.parent.mkdir(parents=True)
    actions = gym.spaces.Discrete(5, start=start)
    space.seed(0)
    actions.seed(0)
    storage = MinariStorage.new(folder, space, actions, jpeg_encoding=False, **how)  # pyright: ignore[reportArgumentType]
    storage.update_metadata({"dataset_id": identity, "minari_version": minari.__version__})
    episodes = []
    for number, length in enumerate(LENGTHS):
        last = np.arange(length) == length - 1
        episodes.append(
            EpisodeBuffer(
                observations=columns([space.sample() for _ in range(length + 1)]),
                actions=[actions.sample() for _ in range(length)],
                rewards=[float(n % 4) / 4 for n in range(length)],
                terminations=list(last & (number == 0)),
                truncations=list(last & (number == 1)),
            )
        )
    storage.update_episodes(episodes)
    return folder


def ingest(source: Path, store: Path) -> Log:
    (piece,) = Minari(source=str(source)).pieces()
    piece.write(str(store), nothing)
    (log,) = open_store(store)[piece.task]
    return log


def load(folder: Path) -> list[minari.EpisodeData]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(minari.MinariDataset(folder).iterate_episodes())


def assert_same(one, other) -> None:
    """Equal values and dtypes, part by part."""
    if isinstance(one, dict):
        assert set(one) == set(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, tuple):
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        np.testing.assert_array_equal(one, other)
        assert np.asarray(one).dtype == np.asarray(other).dtype


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
@pytest.mark.parametrize("name", SPACES)
def test_a_dataset_goes_in_and_comes_out_the_same(tmp_path: Path, name, data_format) -> None:
    folder = write(tmp_path / "in", SPACES[name], data_format=data_format, start=3)
    log = ingest(folder, tmp_path / "store")
    assert log.task.actions == 5
    assert log.manifest.counts.transitions == sum(LENGTHS)
    again = export_minari(tmp_path / "store", tmp_path / "out", task="shop-till-v0")
    assert again == tmp_path / "out" / "shop" / "till-v0" / "data"
    before, after = load(folder), load(again)
    assert len(before) == len(after) == len(LENGTHS)
    for one, other in zip(before, after, strict=True):
        for part in ("observations", "actions", "rewards", "terminations", "truncations"):
            assert_same(getattr(one, part), getattr(other, part))
    log_again = ingest(again, tmp_path / "store2")
    assert log_again.digest == log.digest


def test_rows_are_what_the_episodes_say(tmp_path: Path) -> None:
    folder = write(tmp_path, SPACES["vector"])
    log, frames, at = ingest(folder, tmp_path / "store"), None, 0
    frames = log.frames.read().result()
    for number, episode in enumerate(load(folder)):
        steps = len(episode)
        rows = slice(at, at + steps)
        np.testing.assert_array_equal(frames[at : at + steps + 1], episode.observations)
        np.testing.assert_array_equal(log.action[rows], episode.actions)
        np.testing.assert_array_equal(log.reward[rows], episode.rewards)
        assert log.action[at + steps] == -1
        assert log.terminated[at + steps - 1] == (number == 0)
        assert log.truncated[at + steps - 1] == (number != 0)
        at += steps + 1
    assert at == len(log)


@pytest.mark.parametrize("shape", [(84, 84), (3,)])
def test_a_log_goes_out_and_comes_in_the_same(tmp_path: Path, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (60, *shape), np.uint8)
    action = rng.integers(0, 4, 60).astype(np.int16)
    reward = rng.normal(size=60).astype(np.float32)
    terminated, truncated = np.zeros(60, bool), np.zeros(60, bool)
    terminated[[9, 30]], truncated[[19, 40]] = True, True  # 40 is a joint, 59 no end at all
    action[[10, 20]], reward[[10, 20]] = -1, 0
    task = Task(name="Pong", actions=4, frame_shape=shape)
    about = {"behaviour": "x", "protocol": None, "source": {}, "versions": {}}
    with LogWriter(tmp_path / "store", task, "run1", **about) as writer:  # pyright: ignore[reportArgumentType]
        writer.append(frames, action, reward, terminated, truncated)
        writer.finish()
    folder = export_minari(tmp_path / "store", tmp_path, task="Pong", dataset="Pong-v0")
    episodes = load(folder)
    assert [len(e) for e in episodes] == [10, 9, 10, 10, 19]
    np.testing.assert_array_equal(episodes[0].observations, frames[:11])
    assert json.loads((folder / "metadata.json").read_text())["jpeg_encoding"] is False
    log = ingest(folder, tmp_path / "again")
    for name, values in {"action": action, "reward": reward, "terminated": terminated}.items():
        np.testing.assert_array_equal(getattr(log, name), values)
    np.testing.assert_array_equal(log.truncated, truncated)
    np.testing.assert_array_equal(log.frames.read().result(), frames)


def test_a_folder_of_datasets_is_a_log_for_each(tmp_path: Path) -> None:
    write(tmp_path, SPACES["vector"], identity="a/x-v0")
    write(tmp_path, SPACES["cell"], identity="b-v1")
    assert [p.task for p in Minari(source=str(tmp_path)).pieces()] == ["a-x-v0", "b-v1"]
    with pytest.raises(DataError, match=r"did you mean b-v1"):
        Minari(source=str(tmp_path), tasks=("b-v2",)).pieces()


def test_an_id_finds_what_minari_downloaded(tmp_path: Path, monkeypatch) -> None:
    write(tmp_path, SPACES["vector"])
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    (piece,) = Minari(source="shop/till-v0").pieces()
    assert piece.identity == "shop/till-v0"


def test_an_export_never_overwrites_or_leaves_its_folder(tmp_path: Path) -> None:
    ingest(write(tmp_path / "in", SPACES["vector"]), tmp_path / "store")
    for dataset in ("shop/till-v0", "../evil-v0"):
        with pytest.raises(DataError, match="choose another id"):
            export_minari(tmp_path / "store", tmp_path / "in", task="shop-till-v0", dataset=dataset)


def change(folder: Path, **values: object) -> None:
    path = folder / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"dataset_id": "../../evil-v0"}, ""),
        ({"dataset_id": ".."}, "usable as a folder's"),
        ({"minari_version": "9.9"}, "upgrade minari"),
        ({"action_space": json.dumps({"type": "MultiBinary", "n": 3})}, "only discrete ones"),
        ({"action_space": "nonsense"}, "its spaces"),
        ({"observation_space": None}, "no 'observation_space'"),
        ({"total_episodes": 5}, "episode 4"),
        ({"total_episodes": 3}, "steps in its episodes, metadata.json says 25"),
    ],
)
def test_metadata_that_makes_no_sense_is_named(tmp_path: Path, values: dict, fault: str) -> None:
    folder = write(tmp_path, SPACES["vector"])
    change(folder, **values)
    store = tmp_path / "deep" / "down" / "store"
    if not fault:
        assert ingest(folder, store).task.name == "..-..-evil-v0"
        return
    with pytest.raises(ScaledQError, match=fault):
        ingest(folder, store)


def test_the_environment_that_metadata_names_is_never_made(tmp_path: Path) -> None:
    folder, trap = write(tmp_path, SPACES["vector"]), tmp_path / "sprung"
    spec = {"id": "Evil-v0", "entry_point": "subprocess:Popen", "kwargs": {"args": f"touch {trap}"}}
    data = json.loads((folder / "metadata.json").read_text())
    del data["action_space"]
    (folder / "metadata.json").write_text(json.dumps(data | {"env_spec": json.dumps(spec)}))
    with pytest.raises(DataError, match="no 'action_space'"):
        ingest(folder, tmp_path / "store")
    assert not trap.exists()


@pytest.mark.parametrize(
    ("name", "values", "fault"),
    [
        ("rewards", np.zeros(4), "5 actions, but rewards of shape"),
        ("rewards", np.full(5, np.nan), "row 0 has a reward"),
        ("actions", np.full(5, 9), "row 0 has an action outside"),
        ("terminations", np.array([0, 1, 0, 0, 0]), "row 1 has an end amid the episode"),
        ("truncations", np.array([0, 3, 0, 0, 0]), "row 1 has a flag"),
        ("observations", np.zeros((5, 4), np.float32), "5 actions need 6 observations"),
        ("observations", np.zeros((6, 4), np.float64), "observations are float64"),
    ],
)
def test_an_impossible_episode_is_named(tmp_path: Path, name: str, values, fault: str) -> None:
    folder = write(tmp_path, SPACES["vector"])
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        del file[f"episode_0/{name}"]
        file[f"episode_0/{name}"] = values
    with pytest.raises(DataError, match=f"episode 0: {fault}"):
        ingest(folder, tmp_path / "store")
    assert not open_store(tmp_path / "store").tasks


def test_a_file_that_points_out_of_itself_or_is_absurdly_large_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(20))
    for number, fault in enumerate(["lies outside", "link to elsewhere", "has shape"]):
        folder = write(tmp_path / str(number), SPACES["vector"])
        with h5py.File(folder / "main_data.hdf5", "a") as file:
            del file["episode_0/rewards"]
            group = file["episode_0"]
            assert isinstance(group, h5py.Group)
            if number == 0:
                outside = [(str(tmp_path / "secret"), 0, 20)]
                group.create_dataset("rewards", (5,), "f4", external=outside)
            elif number == 1:
                group["rewards"] = h5py.ExternalLink(str(tmp_path / "secret"), "/x")
            else:
                group.create_dataset("rewards", (1 << 40,), "f8", chunks=(1 << 10,))
        with pytest.raises(DataError, match=fault):
            ingest(folder, tmp_path / "store")


def film(root: Path, *, axis: int, broken: bool = False) -> np.ndarray:
    """A dataset of stacks of 4 over two episodes of 9 frames; the single frames, [18 5 6]."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 9, 5, 6), np.uint8)
    padded = np.concatenate([np.repeat(frames[:, :1], 3, 1), frames], 1)
    stacks = np.stack([padded[:, i : i + 9] for i in range(4)], 2)
    stacks[1, 4, 0, 0, 0] += broken
    stacks = stacks if axis == 0 else np.moveaxis(stacks, 2, -1)
    box = gym.spaces.Box(0, 255, stacks.shape[2:], np.uint8)
    storage = MinariStorage.new(root, box, gym.spaces.Discrete(3), jpeg_encoding=False)
    storage.update_metadata({"dataset_id": "film-v0", "minari_version": minari.__version__})
    last = np.arange(8) == 7
    for episode in stacks:
        columns = {"actions": [1] * 8, "rewards": [0.5] * 8, "truncations": [False] * 8}
        storage.update_episodes(
            [EpisodeBuffer(observations=list(episode), terminations=list(last), **columns)]
        )
    return frames.reshape(18, 5, 6)


@pytest.mark.parametrize(("name", "axis"), [("first", 0), ("last", -1)])
def test_stacks_that_overlap_become_single_frames_and_are_exported_so(
    tmp_path: Path, name, axis
) -> None:
    frames = film(tmp_path / "film", axis=axis)
    source = Minari(source=str(tmp_path / "film"), stack=4, stack_axis=name)
    (piece,) = source.pieces()
    manifest = piece.write(str(tmp_path / "store"), nothing)
    (log,) = open_store(tmp_path / "store")["film-v0"]
    np.testing.assert_array_equal(log.frames.read().result(), frames)
    assert manifest.extra["stacks_overlap"] is True
    export_minari(tmp_path / "store", tmp_path / "again", task="film-v0")
    (single,) = Minari(source=str(tmp_path / "again")).pieces()
    assert single.write(str(tmp_path / "back"), nothing).digest == manifest.digest


def test_stacks_that_do_not_overlap_stay_and_what_is_no_stack_is_one_error(tmp_path: Path) -> None:
    film(tmp_path / "film", axis=0, broken=True)
    (piece,) = Minari(source=str(tmp_path / "film"), stack=4).pieces()
    manifest = piece.write(str(tmp_path / "store"), nothing)
    assert (manifest.task.frame_shape, manifest.extra["stacks_overlap"]) == ((4, 5, 6), False)
    (piece,) = Minari(source=str(tmp_path / "film"), stack=3).pieces()
    with pytest.raises(DataError, match="no stack of 3 in its first axis; leave out the stack"):
        piece.write(str(tmp_path / "other"), nothing)
    write(tmp_path / "x", SPACES["parts"])
    (piece,) = Minari(source=str(tmp_path / "x"), stack=4).pieces()
    with pytest.raises(DataError, match="leave out the stack"):
        piece.write(str(tmp_path / "parts"), nothing)
