"""What a run leaves behind, and how to find one's way in it."""

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from scaledq.core import journal
from scaledq.core.config import from_json, to_json
from scaledq.core.errors import RunError
from scaledq.core.files import write_atomic
from scaledq.core.task import Task
from scaledq.play.policy import NetPolicy, Selection
from scaledq.play.sequence import SequencePolicy
from scaledq.run import assemble
from scaledq.run.checkpoint import save_weights
from scaledq.run.config import RunConfig

RUN, METRICS, SCORES, WEIGHTS = "run.json", "metrics.jsonl", "scores.jsonl", "weights.safetensors"


@dataclass(frozen=True)
class Run:
    """A run's folder. `facts` holds what its config does not: hardware, versions, data, size."""

    folder: Path
    config: RunConfig
    tasks: tuple[Task, ...]
    facts: dict[str, Any]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def finished(self) -> bool:
        """Whether it was trained to its end. Scores and metrics tell of it also without weights:
        then only they were kept."""
        return self.has_weights or "weights" in self.facts

    @property
    def has_weights(self) -> bool:
        return (self.folder / WEIGHTS).exists()

    @property
    def weights(self) -> str:
        """SHA-256 of the weights file of a finished run; as noted where the file was not kept."""
        if self.has_weights:
            return hashlib.sha256((self.folder / WEIGHTS).read_bytes()).hexdigest()
        return str(self.facts["weights"])

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl; empty before the first logging step."""
        path = self.folder / METRICS
        return list(journal.read(path)) if path.exists() else []

    @cached_property
    def network(self) -> nn.Module:
        """The trained network on this machine's device, in evaluation mode.

        Raises:
          RunError: training has not finished, or the weights are damaged or of another network.
        """
        if not self.has_weights:
            why = "they were not kept" if self.finished else "its training has not finished"
            raise RunError(
                f"{self.folder} has no {WEIGHTS}: {why}; go on with `scaledq train ... --resume`"
            )
        device = assemble.device()
        net = assemble.network(self.config, self.tasks)
        try:
            net.load_state_dict(load_file(self.folder / WEIGHTS))
        except (SafetensorError, RuntimeError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise RunError(f"{self.folder / WEIGHTS} cannot be used: {reason}") from error
        return net.to(device).eval()

    def policy(
        self, *, selection: Selection | None = None, keep: int | None = None
    ) -> NetPolicy | SequencePolicy:
        """What the run learnt: the best action, or one drawn from the softmax of preferences.

        Args:
          keep: of a transformer, see `SequencePolicy`.

        Raises:
          ConfigError: as `assemble.policy`.
        """
        net, device = self.network, assemble.device()
        return assemble.policy(
            self.config,
            net,
            selection=selection,
            device=device,
            frame=self.tasks[0],
            keep=keep,
        )


def open_run(path: Path | str) -> Run:
    """Reads `path/run.json`.

    Raises:
      RunError: it is not a run's folder, or its run.json is damaged or from another version.
    """
    file = Path(path) / RUN
    try:
        content = json.loads(file.read_text())
        cfg = json.dumps(content.pop("config"))
        tasks = [json.dumps(task) for task in content.pop("tasks")]
    except FileNotFoundError as error:
        raise RunError(f"{path} is not a run: it has no {RUN}; give a folder of `train`") from error
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise RunError(f"{file} is damaged ({error}); restore it") from error
    return Run(
        folder=Path(path),
        config=from_json(RunConfig, cfg),
        tasks=tuple(from_json(Task, task) for task in tasks),
        facts=content,
    )


def write_run(run: Run) -> None:
    """Writes run.json."""
    content = {
        "config": json.loads(to_json(run.config)),
        "tasks": [json.loads(to_json(task)) for task in run.tasks],
        **run.facts,
    }
    write_atomic(run.folder / RUN, json.dumps(content, indent=2) + "\n")


def finish(run: Run, weights: Mapping[str, Tensor], *, seconds: float) -> Run:
    """Leaves the weights, and in run.json what the run took and their checksum. Where a run is
    trained again because they were not kept, and they differ, its old scores go."""
    done = replace(run, facts={**run.facts, "seconds": round(seconds, 1)})
    write_run(done)
    save_weights(run.folder / WEIGHTS, weights, {"run": run.name})
    digest = done.weights
    done = replace(done, facts={**done.facts, "weights": digest})
    if run.facts.get("weights", digest) != digest:
        (run.folder / SCORES).unlink(missing_ok=True)
    write_run(done)
    return done


def surroundings() -> dict[str, Any]:
    """The versions and the hardware that a number was made with."""
    names = ("scaledq", "torch", "numpy", "tensorstore", "ale-py", "gymnasium")
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"versions": versions, "hardware": hardware()}


def hardware() -> str:
    """One line: the accelerator if there is one, else the processor and how many cores we have."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    return f"{len(os.sched_getaffinity(0))} cores of {model}"
