"""Broken files of every format: each ends in one clear error, or is read as what it says.

Every variant is a whole file with something done to it, named by (format, number); what is done is
drawn from a stream of that name. A variant that is still read must give what an independent reader
of the format finds in the file. SCALEDQ_FUZZ=1000 makes so many variants of each format.
"""

import os
import warnings
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from broken import (
    ActionLogFile,
    Arrow,
    Columns,
    DqnReplay,
    Hdf5,
    Npz,
    Parquet,
    Unplugged,
    npy,
)

from scaledq.core.errors import ScaledQError
from scaledq.core.seeds import stream
from scaledq.data.sources.action_log import load, pack
from scaledq.data.sources.arrays import Arrays
from scaledq.data.sources.dqn_replay import DQNReplay
from scaledq.data.sources.minari import Minari
from scaledq.data.sources.replay_files import part
from scaledq.data.sources.rl_unplugged import RLUnplugged
from scaledq.data.sources.synthetic import Layout, toy_episodes, write_dqn_replay
from scaledq.data.store import open_store

VARIANTS = int(os.environ.get("SCALEDQ_FUZZ", "150"))


def nothing(rows: int) -> None:
    pass


FORMATS: list[Callable] = [DqnReplay, Unplugged, Npz, Parquet, Hdf5, Arrow]


@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.__name__)
@pytest.mark.filterwarnings("ignore")  # of the libraries that judge a variant beside us
def test_a_broken_file_is_one_error_or_what_it_says(tmp_path: Path, kind: Callable) -> None:
    files = kind(tmp_path / "source") if kind is not Npz and kind is not Parquet else kind(tmp_path)
    refused = 0
    for number in range(VARIANTS):
        files.restore()
        files.variant(stream(7, kind.__name__, number))
        store = f"memory://fuzz/{kind.__name__}/{number}"
        error = attempt(partial(ingest, files, store))
        if error is None:
            assert_says(store, files.says(), number)
            continue
        refused += 1
        assert "\n" not in error, number
        assert str(tmp_path) in error or "task" in error, (number, error)
        assert not finished(store), number
    assert refused > VARIANTS / 2


@pytest.mark.filterwarnings("ignore")
def test_a_broken_action_log_is_one_error_or_what_it_says(tmp_path: Path) -> None:
    files, refused, loaded = ActionLogFile(tmp_path), 0, []
    for number in range(VARIANTS):
        files.restore()
        files.variant(stream(7, "ActionLogFile", number))
        found = attempt(lambda: loaded.append(pack(load(files.path))))
        if found is not None:
            refused += 1
            assert "\n" not in found, number
            assert str(files.path) in found, (number, found)
            continue
        said = files.says()
        for name in ("seed", "steps", "ended", "checksum", "actions"):
            np.testing.assert_array_equal(loaded[-1][name], said[name], err_msg=f"{number}: {name}")
    assert refused > VARIANTS / 2


def attempt(read: Callable[[], object]) -> str | None:
    """Reads; returns the error's message if it is one of ours. Any other one fails the test."""
    try:
        read()
    except ScaledQError as error:
        return str(error)
    return None


def ingest(files, store: str) -> None:
    for piece in files.source().pieces():
        piece.write(store, nothing)


def finished(store: str) -> bool:
    try:
        return bool(open_store(store).tasks)
    except ScaledQError:
        return False


def assert_says(store: str, columns: Columns, number: int) -> None:
    opened = open_store(store)
    ((log,),) = (opened[task] for task in opened.tasks)
    for name, values in columns.items():
        found = log.frames.read().result() if name == "frames" else getattr(log, name)
        np.testing.assert_array_equal(found, values, err_msg=f"variant {number}: {name}")


def test_a_bomb_costs_neither_memory_nor_time(tmp_path: Path) -> None:
    """256 MB of zeros in 256 kB: the header says less, and there it ends."""
    folder = tmp_path / "Breakout" / "1" / "replay_logs"
    write_dqn_replay(
        folder,
        toy_episodes(np.random.default_rng(0), lengths=[9, 12], actions=4),
        Layout(capacity=16),
    )
    packer = zlib.compressobj(9, wbits=31)
    head = npy("{'descr': '|u1', 'fortran_order': False, 'shape': (16, 84, 84), }")
    block = bytes(1 << 22)
    with (folder / part("observation", 0)).open("wb") as file:
        file.write(packer.compress(head))
        for _ in range(64):
            file.write(packer.compress(block))
        file.write(packer.flush())
    with pytest.raises(ScaledQError, match="it goes on after its 16 rows"):
        DQNReplay(source=str(tmp_path)).pieces()[0].write(str(tmp_path / "store"), nothing)


@pytest.mark.parametrize("name", ["..", "../x", "a/../../x", "/etc", "x\0y"])
def test_no_name_leads_out_of_a_store(tmp_path: Path, name: str) -> None:
    for source in (DQNReplay, RLUnplugged, Minari, Arrays):
        (tmp_path / "in").mkdir(exist_ok=True)
        with warnings.catch_warnings(), pytest.raises(ScaledQError):
            source(source=str(tmp_path / "in"), tasks=(name,)).pieces()
