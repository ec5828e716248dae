"""What a run says of itself while it trains: metrics.jsonl, TensorBoard, and a word of warning."""

import sys
import time
from typing import Any

from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter

from scaledq.core.batch import Batch, Windows
from scaledq.core.journal import Journal
from scaledq.learn.health import HEALTHY, advise, conflict, measure
from scaledq.learn.learner import Learner
from scaledq.learn.objective import Pretraining
from scaledq.run.folder import METRICS, Run

CLIPPING = ("clipped", "support_low", "support_high")
LAYERS = ("trunk", "norm")
"""Where tasks' gradients are compared: before the heads."""


class Meter:
    """Counts between logging steps, and writes what it counted: metrics.jsonl and TensorBoard.

    Of several ranks the first one writes: losses are the ranks' means, learning health is that of
    its own rows.

    Args:
      writes: whether this is that rank; the others only take part in what all must compute.
    """

    def __init__(self, run: Run, learner: Learner, *, writes: bool = True):
        self.run, self.learner = run, learner
        self.journal = Journal(run.folder / METRICS) if writes else None
        self.board: SummaryWriter | None = None
        if writes:
            self.board = SummaryWriter(str(run.folder / "tensorboard"), purge_step=learner.step)
        self.told = False
        self._reset()

    def _reset(self) -> None:
        self.began, self.transitions, self.waited = time.monotonic(), 0, 0.0

    def count(self, transitions: int, waited: float) -> None:
        self.transitions += transitions
        self.waited += waited

    def write(
        self, metrics: dict[str, Tensor], batch: Batch | Windows, returns: Tensor | None
    ) -> str:
        """Writes one row and starts counting anew; returns a remark for the progress bar.

        `returns` [B] are the Monte-Carlo returns of the batch that `metrics` are of, if it holds
        transitions.
        """
        if self.journal is None or self.board is None:
            if self.run.config.compute.shard:
                measure(self.learner, batch, returns=returns)
            return ""
        taken = time.monotonic() - self.began
        row: dict[str, Any] = {"step": self.learner.step}
        row |= {name: float(value) for name, value in metrics.items()}
        if not isinstance(self.learner.objective, Pretraining):
            row |= measure(self.learner, batch, returns=returns)
        # Sharded, its backward passes would need every rank's part.
        for layer in () if self.run.config.compute.shard else LAYERS:
            if _in_training(self.learner, layer):
                row |= conflict(self.learner, batch, layer=layer)
        row["transitions_per_s"] = self.transitions / taken
        row["loader_wait"] = self.waited / taken
        self.journal.write(row)
        self._warn(row)
        for name, value in row.items():
            self.board.add_scalar(name, value, self.learner.step)
        self._reset()
        return (
            f"loss {row['loss']:.3f}  {row['transitions_per_s']:,.0f} transitions/s  "
            f"waiting {row['loader_wait']:.1%}"
        )

    def _warn(self, row: dict[str, Any]) -> None:
        """Says once that the support cuts off target mass, and which one would fit."""
        if not self.told and row.get("clipped", 0.0) > HEALTHY["clipped"].high:
            self.told = True
            said = advise({name: row[name] for name in row if name in CLIPPING})
            print(f"{self.run.name}: {said[0]}", file=sys.stderr)

    def close(self) -> None:
        if self.journal is not None and self.board is not None:
            self.journal.close()
            self.board.close()


def _in_training(learner: Learner, layer: str) -> bool:
    named = learner.net.named_parameters()
    return any(name.startswith(layer) and p.requires_grad for name, p in named)
