"""How training state survives: whole or not at all, checked when read, never code.

A checkpoint is a folder `step-<n>` of `meta.json`, which holds the scalars and a SHA-256 of every
other file, and of the tensors: one `tensors.safetensors`, or where ranks hold a shard each, one
safetensors file of each rank, written and read by torch.distributed.checkpoint. It is written
beside its place and renamed. No file of it is a pickle, and none that it does not name is opened.
"""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch import distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_parts
from torch.distributed.checkpoint.state_dict_saver import save as save_parts

from scaledq.core.errors import RunError
from scaledq.core.files import write_atomic

TENSORS, META = "tensors.safetensors", "meta.json"


@dataclass(frozen=True, slots=True)
class State:
    """Everything that a run needs to go on: tensors by name, and plain JSON values."""

    step: int
    tensors: dict[str, Tensor]
    scalars: dict[str, Any]


def save_checkpoint(folder: Path, state: State, *, keep: int) -> Path:
    """Writes `folder/step-<n>` and then deletes all but the newest `keep`.

    Raises:
      RunError: the disk is full or not writable; older checkpoints stay.
    """
    with _published(folder, state, keep=keep) as (partial, meta):
        data = save({name: t.detach().cpu().contiguous() for name, t in state.tensors.items()})
        write_atomic(partial / TENSORS, data)
        meta["sha256"] = hashlib.sha256(data).hexdigest()
    return place_of(folder, state.step)


def save_shards(folder: Path, state: State, *, keep: int, group: dist.ProcessGroup) -> Path:
    """As `save_checkpoint`, by all ranks together: each writes its part of spread tensors.

    Args:
      group: of all ranks, on the CPU, and used for nothing else meanwhile.
    """
    partial, place = _partial(folder, state.step), place_of(folder, state.step)
    try:
        partial.mkdir(parents=True, exist_ok=True)
        writer = HuggingFaceStorageWriter(str(partial), save_distributed=True)
        save_parts(dict(state.tensors), storage_writer=writer, process_group=group)
    except (OSError, CheckpointException) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise _unwritable(place, error) from error
    if dist.get_rank(group) == 0:
        with _published(folder, state, keep=keep, begun=True) as (_, meta):
            meta["files"] = {file.name: _digest(file) for file in sorted(partial.iterdir())}
    return place


@contextmanager
def _published(
    folder: Path, state: State, *, keep: int, begun: bool = False
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Gives a folder to fill and what meta.json will hold; then puts both in their place."""
    place, partial = place_of(folder, state.step), _partial(folder, state.step)
    try:
        if not begun:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        meta = {"step": state.step, **state.scalars}
        yield partial, meta
        write_atomic(partial / META, json.dumps(meta, indent=2))
        shutil.rmtree(place, ignore_errors=True)
        os.replace(partial, place)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise _unwritable(place, error) from error
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def place_of(folder: Path, step: int) -> Path:
    """Where the checkpoint of that step lies."""
    return folder / f"step-{step:09d}"


def _partial(folder: Path, step: int) -> Path:
    return folder / f".step-{step:09d}.partial"


def _unwritable(place: Path, error: BaseException) -> RunError:
    reason = getattr(error, "strerror", None) or str(error).strip().splitlines()[-1]
    return RunError(
        f"cannot write checkpoint {place}: {reason}; "
        "free some space and resume: the checkpoint before it is untouched"
    )


def discard_partial(folder: Path) -> None:
    """Removes what a killed process left half-written; for who holds the run's lock."""
    for partial in folder.glob(".step-*.partial"):
        shutil.rmtree(partial, ignore_errors=True)


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints in `folder`, oldest first."""
    return sorted(p for p in folder.glob("step-*") if (p / META).exists())


def load_checkpoint(place: Path) -> State:
    """Reads one checkpoint.

    Raises:
      RunError: a file is missing, or its content is not what was written.
    """
    try:
        meta = json.loads((place / META).read_text())
        step, files = int(meta.pop("step")), meta.pop("files", None)
        if files is None:
            files = {TENSORS: meta.pop("sha256")}
        for name, digest in files.items():
            if _digest(place / Path(name).name) != digest:
                raise RunError(
                    f"checkpoint {place} is damaged: the checksum of {name} differs; delete it"
                )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"checkpoint {place} cannot be read ({error}); delete it") from error
    try:
        whole = list(files) == [TENSORS]
        tensors = load((place / TENSORS).read_bytes()) if whole else _gathered(place)
    except (SafetensorError, OSError, KeyError, ValueError, CheckpointException) as error:
        raise RunError(f"checkpoint {place} holds no tensors ({error}); delete it") from error
    return State(step=step, tensors=tensors, scalars=meta)


def _gathered(place: Path) -> dict[str, Tensor]:
    """The whole tensors, put together from every rank's file, however many ranks there were."""
    reader = HuggingFaceStorageReader(str(place))
    found = reader.read_metadata().state_dict_metadata
    tensors = {
        name: torch.empty(about.size, dtype=about.properties.dtype)
        for name, about in found.items()
        if isinstance(about, TensorStorageMetadata)
    }
    with warnings.catch_warnings():  # it warns that it works alone, which is what is asked of it
        warnings.simplefilter("ignore", UserWarning)
        load_parts(tensors, storage_reader=reader, no_dist=True)
    return tensors


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def newest(folder: Path, *, warn: Any = None) -> State | None:
    """The newest checkpoint that can be read; `warn(message)` is told of damaged ones passed over.

    Raises:
      RunError: there are checkpoints, but none can be read.
    """
    fault = None
    for place in reversed(checkpoints(folder)):
        try:
            return load_checkpoint(place)
        except RunError as error:
            fault = error
            if warn:
                warn(str(error))
    if fault:
        raise RunError(f"no checkpoint in {folder} can be read; start in another folder") from fault
    return None


def save_weights(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, str]) -> None:
    """Writes a network's weights alone, as safetensors with `meta` in its header."""
    data = save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, dict(meta))
    write_atomic(path, data)
