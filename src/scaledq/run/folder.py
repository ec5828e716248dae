"""What a run leaves behind, and how to find one's way in it."""

import json
import os
import platform
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from scaledq.core import journal
from scaledq.core.config import from_json, to_json
from scaledq.core.errors import RunError
from scaledq.core.files import write_atomic
from scaledq.core.task import Task
from scaledq.play.policy import NetPolicy, Selection
from scaledq.play.sequence import SequencePolicy
from scaledq.run import assemble
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
        return (self.folder / WEIGHTS).exists()

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
        if not self.finished:
            raise RunError(
                f"{self.folder} has no {WEIGHTS}: its training has not finished; "
                "go on with `scaledq train ... --resume`"
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
