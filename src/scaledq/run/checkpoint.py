"""How training state survives: whole or not at all, checked when read, never code.

A checkpoint is a folder `step-<n>` of two files: `tensors.safetensors` and `meta.json`, which
holds the scalars and the SHA-256 of the tensors. It is written beside its place and renamed.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

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
    place = folder / f"step-{state.step:09d}"
    partial = folder / f".step-{state.step:09d}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        data = save({name: t.detach().cpu().contiguous() for name, t in state.tensors.items()})
        meta = {"step": state.step, "sha256": hashlib.sha256(data).hexdigest(), **state.scalars}
        write_atomic(partial / TENSORS, data)
        write_atomic(partial / META, json.dumps(meta, indent=2))
        shutil.rmtree(place, ignore_errors=True)
        os.replace(partial, place)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise RunError(
            f"cannot write checkpoint {place}: {error.strerror or error}; "
            "free some space and resume: the checkpoint before it is untouched"
        ) from error
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return place


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
        data = (place / TENSORS).read_bytes()
        digest, step = meta.pop("sha256"), int(meta.pop("step"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"checkpoint {place} cannot be read ({error}); delete it") from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise RunError(f"checkpoint {place} is damaged: its checksum differs; delete it")
    try:
        return State(step=step, tensors=load(data), scalars=meta)
    except SafetensorError as error:
        raise RunError(f"checkpoint {place} holds no tensors ({error}); delete it") from error


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
