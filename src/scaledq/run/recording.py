"""How an agent that learns while it plays is recorded, and goes on after any interruption.

Whatever learns is an `Agent`: it plays on a stage, which records every step. A checkpoint holds the
agent, every log's episodes so far and how many rows each has: what a resumed recording writes is
what it would have written, bit for bit on the CPU.
"""

import contextlib
import signal
import sys
import time
from pathlib import Path
from typing import Any, runtime_checkable
from typing import Protocol as Interface

import numpy as np
import torch
from torch import Tensor

from scaledq.core import journal
from scaledq.core.journal import Journal
from scaledq.core.progress import Progress
from scaledq.data.sources.action_log import ActionLog, pack, unpack
from scaledq.run.checkpoint import State, save_checkpoint
from scaledq.run.signals import Interrupted, Stop
from scaledq.run.stage import Stage

METRICS, CHECKPOINTS = "metrics.jsonl", "checkpoints"


@runtime_checkable
class Agent(Interface):
    """Whoever plays on a stage and learns from it."""

    def begin(self, stage: Stage) -> None:
        """The first episodes have begun."""
        ...

    def round(self, stage: Stage) -> None:
        """Plays and learns for a moment, and leaves the stage ready for the next step.

        Raises:
          DivergedError: what it learnt is not finite.
        """
        ...

    def step(self, stage: Stage) -> int:
        """What its checkpoints and metrics are numbered by; grows with every row of metrics."""
        ...

    def due(self) -> bool:
        """A row of metrics is to be written after this round."""
        ...

    def late(self, seconds: float) -> bool:
        """A checkpoint is to be written after this round, so many seconds after the last."""
        ...

    def metrics(self, stage: Stage) -> dict[str, float | int]:
        """Of what it learnt last."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """All that learning changes, by dotted name; none begins with `log.`."""
        ...

    def scalars(self) -> dict[str, Any]:
        """What else a checkpoint is to keep of it."""
        ...

    def load(self, state: State) -> None:
        """Inverse of `tensors` and `scalars`."""
        ...

    def resume(self, stage: Stage) -> None:
        """The stage is again where it was when the checkpoint that was loaded was taken."""
        ...


class Recording:
    """An agent on a stage: round after round, metrics and checkpoints in `folder`.

    Args:
      stage: its fleet not reset yet.
      keep: how many checkpoints stay.
    """

    def __init__(self, stage: Stage, agent: Agent, folder: Path, *, keep: int = 2) -> None:
        self.stage, self.agent, self.folder, self.keep = stage, agent, folder, keep
        self.seconds = 0.0
        self._scores: list[list[float]] = [[] for _ in stage.fleet.tasks]
        self._saved = time.monotonic()

    @property
    def step(self) -> int:
        """As the agent counts."""
        return self.agent.step(self.stage)

    def begin(self) -> None:
        """Starts from nothing."""
        journal.retain(self.folder / METRICS, lambda row: False)
        self.stage.begin()
        self.agent.begin(self.stage)

    def resume(self, state: State) -> None:
        """Goes on from a checkpoint, with tapes that were opened for it.

        Raises:
          DataError: an unfinished episode does not come out as recorded.
        """
        self.agent.load(state)
        self.stage.resume(state.scalars["slot_steps"], read_logs(state))
        self.agent.resume(self.stage)
        self.seconds, self._scores = state.scalars["seconds"], state.scalars["scores"]
        journal.retain(self.folder / METRICS, lambda row: row["step"] <= self.step)
        print(f"resuming the recording at step {self.step:,}", file=sys.stderr)

    def run(self, stop: Stop) -> None:
        """Plays, learns and records to the end.

        Raises:
          Interrupted: a signal came; a checkpoint was written first.
          DivergedError: the loss was not finite.
        """
        began, stage, agent = time.monotonic() - self.seconds, self.stage, self.agent
        with (
            contextlib.closing(Journal(self.folder / METRICS)) as log,
            Progress(
                f"collect {', '.join(task.name for task in stage.fleet.tasks)}", stage.total
            ) as bar,
        ):
            remark = ""
            while stage.step < stage.length:
                agent.round(stage)
                self.seconds = time.monotonic() - began
                for pending, new in zip(self._scores, stage.scores(), strict=True):
                    pending += new
                if agent.due() or stage.step == stage.length:
                    remark = self._say(log)
                bar.show(stage.recorded, remark)
                late = agent.late(time.monotonic() - self._saved)
                if late or stop or stage.step == stage.length:
                    self.save()
                if stop and stage.step < stage.length:
                    raise Interrupted(
                        f"{signal.Signals(stop.number).name}: stopped at step {self.step:,} with a "
                        f"checkpoint in {self.folder}; go on with --resume",
                        number=stop.number,
                    )

    def save(self) -> None:
        """Writes a checkpoint: the agent, every log's episodes so far, and how many rows it has."""
        logs, rows = self.stage.snapshots()
        tensors = self.agent.tensors()
        for slot, log in enumerate(logs):
            tensors |= {f"log.{slot}.{k}": v for k, v in write_log(log).items()}
        scalars = {
            **self.agent.scalars(),
            "slot_steps": self.stage.step,
            "rows": rows,
            "seconds": self.seconds,
            "scores": self._scores,
            "threads": torch.get_num_threads(),
        }
        state = State(step=self.step, tensors=tensors, scalars=scalars)
        save_checkpoint(self.folder / CHECKPOINTS, state, keep=self.keep)
        self._saved = time.monotonic()

    def _say(self, log: Journal) -> str:
        """Writes a row of metrics, and returns a remark for the progress bar."""
        names = [task.name for task in self.stage.fleet.tasks]
        means = {n: sum(s) / len(s) for n, s in zip(names, self._scores, strict=True) if s}
        counts = {n: len(s) for n, s in zip(names, self._scores, strict=True)}
        row = {"step": self.step, "seconds": round(self.seconds, 1)}
        row |= self.agent.metrics(self.stage)
        if len(names) == 1 and means:
            row["episode_return"] = means[names[0]]
        log.write(row | {"score": means, "episodes": counts})
        self._scores = [[] for _ in names]
        return "  ".join(f"{name} {mean:,.1f}" for name, mean in means.items())


def write_log(log: ActionLog) -> dict[str, Tensor]:
    """An action log as tensors; checksums as the int64 of the same bits."""
    arrays = pack(log)
    arrays["checksum"] = arrays["checksum"].view(np.int64)
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def read_logs(state: State) -> list[ActionLog]:
    """The action logs of a checkpoint, by slot; the last episode of each is not over."""
    found: dict[int, dict[str, np.ndarray]] = {}
    for key, tensor in state.tensors.items():
        if key.startswith("log."):
            _, slot, name = key.split(".")
            found.setdefault(int(slot), {})[name] = tensor.numpy()
    for arrays in found.values():
        arrays["checksum"] = arrays["checksum"].view(np.uint64)
    return [unpack(found[slot], f"checkpoint, slot {slot}") for slot in range(len(found))]
