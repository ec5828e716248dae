"""Arrays: what a company has, in .npz and .parquet, against the arrays that were written."""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scaledq.core.errors import DataError, ScaledQError
from scaledq.data.sources.arrays import Arrays
from scaledq.data.store import Log, open_store


def nothing(rows: int) -> None:
    pass


def table(rows: int = 40, shape: tuple[int, ...] = (3,), dtype: str = "float32") -> dict:
    rng = np.random.default_rng(0)
    terminated = np.zeros(rows, bool)
    terminated[9::10] = True
    truncated = np.zeros(rows, bool)
    truncated[14] = True
    return {
        "observation": (100 * rng.random((rows, *shape))).astype(dtype),
        "action": rng.integers(0, 5, rows),
        "reward": rng.integers(-3, 4, rows).astype(np.float64),
        "terminated": terminated,
        "truncated": truncated,
    }


def write_npz(path: Path, columns: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **columns)


def write_parquet(path: Path, columns: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    wide = columns["observation"]
    if wide.ndim > 2:
        cells = pa.FixedShapeTensorArray.from_numpy_ndarray(wide)
    elif wide.ndim == 2:
        cells = pa.array(wide.tolist(), pa.list_(pa.from_numpy_dtype(wide.dtype)))
    else:
        cells = pa.array(wide)
    pq.write_table(pa.table({**columns, "observation": cells}), path, row_group_size=16)


WRITERS = {".npz": write_npz, ".parquet": write_parquet}


def ingest(source: Path, store: Path, **options: object) -> Log:
    (piece,) = Arrays(source=str(source), **options).pieces()  # pyright: ignore[reportArgumentType]
    piece.write(str(store), nothing)
    (log,) = open_store(store)[piece.task]
    return log


def assert_holds(log: Log, columns: dict) -> None:
    np.testing.assert_array_equal(log.frames.read().result(), columns["observation"])
    for name in ("action", "reward", "terminated", "truncated"):
        np.testing.assert_array_equal(getattr(log, name), columns[name], err_msg=name)


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize(
    ("shape", "dtype"), [((3,), "float32"), ((4, 5), "uint8"), ((2, 3, 4), "int64")]
)
def test_vectors_and_pictures_come_back(tmp_path: Path, suffix, shape, dtype) -> None:
    columns = table(shape=shape, dtype=dtype)
    WRITERS[suffix](tmp_path / f"shop{suffix}", columns)
    log = ingest(tmp_path / f"shop{suffix}", tmp_path / "store")
    assert_holds(log, columns)
    assert (log.task.name, log.task.actions) == ("shop", 5)
    assert (log.task.frame_shape, log.task.frame_dtype) == (shape, dtype)


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_number_a_row_is_a_frame_of_one(tmp_path: Path, suffix: str) -> None:
    columns = table(shape=())
    WRITERS[suffix](tmp_path / f"shop{suffix}", columns)
    log = ingest(tmp_path / f"shop{suffix}", tmp_path / "store")
    np.testing.assert_array_equal(log.frames.read().result()[:, 0], columns["observation"])


@pytest.mark.parametrize("suffix", WRITERS)
def test_shards_continue_each_other_in_the_order_of_their_numbers(tmp_path, suffix) -> None:
    columns = table(rows=1200)
    for shard in range(12):
        part = {name: values[shard * 100 : shard * 100 + 100] for name, values in columns.items()}
        WRITERS[suffix](tmp_path / "shop" / f"part-{shard}{suffix}", part)
    assert_holds(ingest(tmp_path / "shop", tmp_path / "store"), columns)


def test_each_folder_is_a_task(tmp_path: Path) -> None:
    for name in ("north", "south", "west"):
        write_npz(tmp_path / "shops" / name / "log.npz", table())
    assert [p.task for p in Arrays(source=str(tmp_path / "shops")).pieces()] == [
        "north",
        "south",
        "west",
    ]
    (piece,) = Arrays(source=str(tmp_path / "shops"), tasks=("south",)).pieces()
    assert piece.task == "south"
    with pytest.raises(DataError, match="did you mean south"):
        Arrays(source=str(tmp_path / "shops"), tasks=("sout",)).pieces()


@pytest.mark.parametrize("name", ["../../evil", "..", "a/b", ""])
def test_a_task_cannot_lead_out_of_the_store(tmp_path: Path, name: str) -> None:
    write_npz(tmp_path / "shop.npz", table())
    with pytest.raises(ScaledQError, match="usable as a folder's"):
        Arrays(source=str(tmp_path / "shop.npz"), tasks=(name,)).pieces()


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("ends", ["terminated", "truncated"])
def test_a_change_of_episode_is_an_end_across_blocks_and_shards(tmp_path, suffix, ends) -> None:
    columns = table(rows=100)
    del columns["truncated"], columns["terminated"]
    columns["episode"] = np.repeat([7, 3, 3, 9, 1], 20)
    for shard in range(2):
        part = {name: values[shard * 60 : shard * 60 + 60] for name, values in columns.items()}
        WRITERS[suffix](tmp_path / "shop" / f"{shard}{suffix}", part)
    log = ingest(tmp_path / "shop", tmp_path / "store", ends=ends)
    np.testing.assert_array_equal(np.flatnonzero(getattr(log, ends)), [19, 59, 79, 99])
    other = {"terminated": "truncated", "truncated": "terminated"}[ends]
    assert not getattr(log, other).any()


def test_episodes_may_have_text_as_ids_and_flags_of_their_own(tmp_path: Path) -> None:
    columns = table(rows=30)
    columns["episode"] = np.array([f"user-{n // 10}" for n in range(30)])
    write_parquet(tmp_path / "shop.parquet", columns)
    log = ingest(tmp_path / "shop.parquet", tmp_path / "store")
    np.testing.assert_array_equal(np.flatnonzero(log.terminated), [9, 19, 29])
    np.testing.assert_array_equal(np.flatnonzero(log.truncated), [14])


def test_closing_rows_are_kept(tmp_path: Path) -> None:
    columns = table(rows=30)
    for name, value in {"action": -1, "reward": 0, "terminated": False}.items():
        columns[name][20] = value
    write_npz(tmp_path / "shop.npz", columns)
    assert_holds(ingest(tmp_path / "shop.npz", tmp_path / "store", actions=7), columns)


def video(padding: str, axis: int) -> tuple[dict, np.ndarray]:
    """Stacks of 4 of 3 episodes of 10 frames, and the single frames."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (3, 10, 5, 6), np.uint8)
    before = {"zeros": np.zeros_like(frames[:, :1]), "repeat": frames[:, :1]}[padding]
    padded = np.concatenate([before, before, before, frames], 1)
    stacks = np.stack([padded[:, i : i + 10] for i in range(4)], axis=2).reshape(30, 4, 5, 6)
    columns = table(rows=30) | {"observation": stacks if axis == 0 else np.moveaxis(stacks, 1, -1)}
    columns["truncated"][:] = False
    return columns, frames.reshape(30, 5, 6)


@pytest.mark.parametrize("padding", ["zeros", "repeat"])
@pytest.mark.parametrize("axis", ["first", "last"])
def test_stacks_that_overlap_become_single_frames(tmp_path: Path, padding, axis) -> None:
    columns, frames = video(padding, 0 if axis == "first" else -1)
    write_npz(tmp_path / "shop.npz", columns)
    log = ingest(tmp_path / "shop.npz", tmp_path / "store", stack=4, stack_axis=axis)
    assert_holds(log, columns | {"observation": frames})
    assert log.manifest.extra["stacks_overlap"] is True


@pytest.mark.parametrize("place", [(17, 1), (20, 0), (0, 2)])
def test_stacks_that_do_not_overlap_stay_as_they_are(tmp_path: Path, place) -> None:
    columns, _ = video("zeros", 0)
    columns["observation"][place][0, 0] += 1
    write_npz(tmp_path / "shop.npz", columns)
    log = ingest(tmp_path / "shop.npz", tmp_path / "store", stack=4)
    assert_holds(log, columns)
    assert log.manifest.extra["stacks_overlap"] is False


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize(
    ("name", "row", "value", "fault"),
    [
        ("action", 7, -2, "row 7 is -2: not in 0 to 4"),
        ("reward", 33, np.nan, "row 33 is nan: not finite"),
        ("reward", 33, 1e300, "row 33 is 1e[+]300: not finite"),
        ("terminated", 11, 2, "row 11 is 2: neither 0 nor 1"),
    ],
)
def test_an_impossible_value_names_file_column_and_row(
    tmp_path: Path, suffix: str, name: str, row: int, value: float, fault: str
) -> None:
    columns = table()
    columns["terminated"] = columns["terminated"].astype(np.int32)
    columns[name][row] = value
    WRITERS[suffix](tmp_path / "shop" / f"x{suffix}", columns)
    with pytest.raises(DataError, match=rf"shop/x{suffix}: column '{name}': {fault}"):
        ingest(tmp_path / "shop", tmp_path / "store")


@pytest.mark.parametrize("suffix", WRITERS)
def test_schema_errors_name_file_and_column(tmp_path: Path, suffix: str) -> None:
    def fails(columns: dict, message: str) -> None:
        path = tmp_path / f"shop{suffix}"
        WRITERS[suffix](path, columns)
        with pytest.raises(DataError, match=rf"shop{suffix}: .*{message}"):
            ingest(path, tmp_path / "store")

    whole = table()
    fails({k: v for k, v in whole.items() if k != "action"}, "no column 'action'; known: observ")
    fails({k: v for k, v in whole.items() if k[0] != "t"}, "no column says where episodes end")
    fails(whole | {"action": whole["reward"]}, "column 'action': should be integers, is float64")


def test_columns_of_different_lengths_and_missing_cells_are_named(tmp_path: Path) -> None:
    write_npz(tmp_path / "shop.npz", table() | {"reward": np.zeros(39)})
    with pytest.raises(DataError, match="different lengths: action 40, reward 39"):
        ingest(tmp_path / "shop.npz", tmp_path / "store")
    columns = {name: list(values) for name, values in table(shape=()).items()}
    columns["reward"][21] = None
    pq.write_table(pa.table(columns), tmp_path / "shop.parquet")
    with pytest.raises(DataError, match="column 'reward': row 21 has no value"):
        ingest(tmp_path / "shop.parquet", tmp_path / "store")
    columns = {name: list(values) for name, values in table(rows=40).items()}
    columns["observation"][5] = np.zeros(4, np.float32)
    pq.write_table(pa.table(columns), tmp_path / "shop.parquet")
    with pytest.raises(DataError, match="row 5 has 4 values, row 0 has 3"):
        ingest(tmp_path / "shop.parquet", tmp_path / "store")


def test_shards_of_different_shapes_are_named(tmp_path: Path) -> None:
    write_npz(tmp_path / "shop" / "a.npz", table())
    write_npz(tmp_path / "shop" / "b.npz", table(shape=(4,)))
    with pytest.raises(DataError, match=r"b\.npz: column 'observation'"):
        ingest(tmp_path / "shop", tmp_path / "store")


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_pickled_arrays_are_refused_and_never_run(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    columns = table()
    columns["action"] = np.array([Trap(trap)] * 40, dtype=object)
    np.savez(tmp_path / "shop.npz", **columns)
    with pytest.raises(DataError, match="'action': its header is not that of a plain array"):
        ingest(tmp_path / "shop.npz", tmp_path / "store")
    with zipfile.ZipFile(tmp_path / "raw.npz", "w") as file:
        file.writestr("observation.npy", pickle.dumps(Trap(trap)))
        for name in ("action", "reward", "terminated"):
            file.writestr(f"{name}.npy", pickle.dumps(Trap(trap)))
    with pytest.raises(DataError, match=r"no \.npy array is in it"):
        ingest(tmp_path / "raw.npz", tmp_path / "store")
    assert not trap.exists()
