"""Checkpoints: what comes back is what went in, and damage is found."""

import hashlib
import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import distributed as dist

from scaledq.core.errors import RunError
from scaledq.run.checkpoint import (
    META,
    TENSORS,
    State,
    checkpoints,
    load_checkpoint,
    newest,
    save_checkpoint,
    save_shards,
)

ONES = torch.ones(5)


def state(step: int) -> State:
    tensors = {"net.w": torch.full((2, 3), float(step)), "count": torch.tensor([step])}
    return State(step=step, tensors=tensors, scalars={"elapsed": 1.5})


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path: Path) -> None:
    back = load_checkpoint(save_checkpoint(tmp_path, state(7), keep=2))
    assert (back.step, back.scalars) == (7, {"elapsed": 1.5})
    assert all(torch.equal(back.tensors[k], v) for k, v in state(7).tensors.items())


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 10, 9):
        save_checkpoint(tmp_path, state(step), keep=2)
    assert [p.name for p in checkpoints(tmp_path)] == ["step-000000009", "step-000000010"]


@pytest.mark.parametrize("name", [TENSORS, META])
@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "remove"])
def test_a_damaged_newest_checkpoint_falls_back_loudly(
    tmp_path: Path, name: str, damage: str
) -> None:
    save_checkpoint(tmp_path, state(1), keep=3)
    file = save_checkpoint(tmp_path, state(2), keep=3) / name
    data = bytearray(file.read_bytes())
    if damage == "remove":
        file.unlink()
    else:
        # Within meta.json byte 12 is the step's digit; it is no digit after the flip.
        data[12] ^= 0x40
        kept = {"truncate": data[: len(data) // 2], "flip": data, "empty": b""}[damage]
        file.write_bytes(bytes(kept))
    said: list[str] = []
    found = newest(tmp_path, warn=said.append)
    assert found is not None
    assert found.step == 1
    # Without its meta.json a folder is no checkpoint at all: there is nothing to warn of.
    assert len(said) == (0 if (name, damage) == (META, "remove") else 1)


def test_nothing_readable_is_an_error_and_nothing_at_all_is_none(tmp_path: Path) -> None:
    assert newest(tmp_path) is None
    (save_checkpoint(tmp_path, state(1), keep=3) / TENSORS).write_bytes(b"")
    with pytest.raises(RunError, match="no checkpoint"):
        newest(tmp_path)


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "remove", "foreign"])
def test_a_damaged_shard_is_found(shards: Path, damage: str) -> None:
    file = sorted(shards.glob("*.safetensors"))[0]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    kept = {"truncate": data[:100], "flip": data, "empty": b"", "foreign": save({"w": ONES})}
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes(bytes(kept[damage]))
    with pytest.raises(RunError, match=r"damaged|cannot be read"):
        load_checkpoint(shards)


def test_the_shards_of_one_process_are_whole_and_no_other_file_is_opened(shards: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(shards / "executed"),)

    (shards / ".metadata").write_bytes(pickle.dumps(Trap()))
    back = load_checkpoint(shards)
    assert (back.step, back.scalars) == (3, {"elapsed": 1.5})
    assert all(torch.equal(back.tensors[k], v) for k, v in state(3).tensors.items())
    assert not (shards / "executed").exists()


@pytest.fixture
def shards(tmp_path: Path) -> Iterator[Path]:
    """A checkpoint that one process wrote as ranks do."""
    dist.init_process_group("gloo", f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        group = dist.group.WORLD
        assert group is not None
        yield save_shards(tmp_path / "checkpoints", state(3), keep=2, group=group)
    finally:
        dist.destroy_process_group()


def test_a_pickle_in_place_of_tensors_is_refused(tmp_path: Path) -> None:
    place = save_checkpoint(tmp_path, state(1), keep=3)
    bad = pickle.dumps({"net.w": [1]})
    (place / TENSORS).write_bytes(bad)
    meta = json.loads((place / META).read_text()) | {"sha256": hashlib.sha256(bad).hexdigest()}
    (place / META).write_text(json.dumps(meta))
    with pytest.raises(RunError, match="holds no tensors"):
        load_checkpoint(place)
