"""The training loop: which thing happens at which step, and nothing else."""

import signal
import sys
import time
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter

from scaledq.core import journal
from scaledq.core.errors import RunError
from scaledq.core.files import locked
from scaledq.core.journal import Journal
from scaledq.core.progress import Progress
from scaledq.data.loader import Loader
from scaledq.learn.learner import Learner
from scaledq.run import assemble
from scaledq.run.checkpoint import State, checkpoints, newest, save_checkpoint, save_weights
from scaledq.run.config import RunConfig
from scaledq.run.folder import METRICS, RUN, WEIGHTS, Run, open_run, surroundings, write_run
from scaledq.run.signals import Interrupted, Stop, listening


def train(cfg: RunConfig, out: Path | str = "runs", *, resume: bool = False) -> Run:
    """Trains the run that `cfg` describes in `out/<slug>-<fingerprint>`; a finished one is kept.

    Raises:
      RunError: the folder is in use, or holds another run or an unfinished one without `resume`.
      DivergedError: a loss or gradient norm was not finite.
      Interrupted: SIGINT or SIGTERM came; a checkpoint was written first.
    """
    folder = Path(out) / cfg.folder
    with locked(folder):
        if (folder / RUN).exists() and open_run(folder).finished:
            print(f"already finished: {folder}", file=sys.stderr)
            return open_run(folder)
        loader = assemble.loader(cfg)
        learner = assemble.learner(cfg, loader.tasks, device=assemble.device())
        run = _begin(folder, cfg, loader, learner, resume=resume)
        seconds = _restore(run, learner)
        with listening() as stop:
            seconds = _loop(run, loader, learner, stop, seconds=seconds)
        return _finish(run, learner, seconds=seconds)


def _begin(folder: Path, cfg: RunConfig, loader: Loader, learner: Learner, *, resume: bool) -> Run:
    """Writes run.json, or checks that the one there is this run."""
    if (folder / RUN).exists():
        run = open_run(folder)
        if replace(run.config, stores=()) != replace(cfg, stores=()):
            raise RunError(f"{folder} holds a run of another config; choose another --out")
        if run.facts.get("data") != loader.digest:
            raise RunError(
                f"{folder} was trained on other data (digest {run.facts.get('data')}, now "
                f"{loader.digest}); give the same stores or choose another --out"
            )
        if checkpoints(folder / "checkpoints") and not resume:
            raise RunError(
                f"{folder} holds an unfinished run; add --resume or choose another --out"
            )
        return run
    parameters = sum(p.numel() for p in learner.net.parameters())
    facts = {"data": loader.digest, "transitions": [int(n) for n in loader.sizes]}
    run = Run(folder, cfg, loader.tasks, {**facts, "parameters": parameters, **surroundings()})
    write_run(run)
    return run


def _restore(run: Run, learner: Learner) -> float:
    """Puts the learner where the newest checkpoint left it; returns the seconds spent so far."""
    state = newest(run.folder / "checkpoints", warn=lambda line: print(line, file=sys.stderr))
    if state is None:
        journal.retain(run.folder / METRICS, lambda row: False)
        return 0.0
    learner.load_state_dict({**state.tensors, "step": state.step})
    journal.retain(run.folder / METRICS, lambda row: row["step"] <= state.step)
    print(f"resuming {run.name} at step {state.step:,}", file=sys.stderr)
    return float(state.scalars["seconds"])


def _save(run: Run, learner: Learner, *, seconds: float) -> None:
    learner.check()
    tensors = {k: v for k, v in learner.state_dict().items() if isinstance(v, Tensor)}
    state = State(step=learner.step, tensors=tensors, scalars={"seconds": seconds})
    save_checkpoint(run.folder / "checkpoints", state, keep=run.config.checkpoints)


def _loop(run: Run, loader: Loader, learner: Learner, stop: Stop, *, seconds: float) -> float:
    """Runs the remaining steps; returns the seconds that training has taken in all."""
    cfg = run.config
    began = time.monotonic() - seconds
    with ExitStack() as stack:
        meter = stack.enter_context(closing(Meter(run, learner)))
        bar = stack.enter_context(Progress(f"train {run.name}", cfg.steps))
        batches = stack.enter_context(closing(loader.stream(learner.step, cfg.steps)))
        for batch in batches:
            metrics = learner.update(batch.to(assemble.device(), non_blocking=True))
            meter.count(len(batch), loader.waited)
            if learner.step % cfg.log_every == 0 or learner.step == cfg.steps:
                learner.check()
                bar.show(learner.step, meter.write(metrics, loader, batch))
            if learner.step % cfg.checkpoint_every == 0 or stop:
                _save(run, learner, seconds=time.monotonic() - began)
            if stop:
                name = signal.Signals(stop.number).name
                raise Interrupted(
                    f"{name}: stopped at step {learner.step:,} of {cfg.steps:,} with a checkpoint "
                    f"in {run.folder}; go on with --resume",
                    number=stop.number,
                )
    return time.monotonic() - began


def _finish(run: Run, learner: Learner, *, seconds: float) -> Run:
    """Leaves the weights, and run.json with what the run took."""
    done = replace(run, facts={**run.facts, "seconds": round(seconds, 1)})
    write_run(done)
    save_weights(run.folder / WEIGHTS, learner.net.state_dict(), {"run": run.name})
    return done


class Meter:
    """Counts between logging steps, and writes what it counted: metrics.jsonl and TensorBoard."""

    def __init__(self, run: Run, learner: Learner):
        self.run, self.learner = run, learner
        self.journal = Journal(run.folder / METRICS)
        self.board = SummaryWriter(str(run.folder / "tensorboard"), purge_step=learner.step)
        self._reset()

    def _reset(self) -> None:
        self.began, self.transitions, self.waited = time.monotonic(), 0, 0.0

    def count(self, transitions: int, waited: float) -> None:
        self.transitions += transitions
        self.waited += waited

    def write(self, metrics: dict[str, Any], loader: Loader, batch: Any) -> str:
        """Writes one row and starts counting anew; returns a remark for the progress bar."""
        taken = time.monotonic() - self.began
        row: dict[str, Any] = {"step": self.learner.step}
        row |= {name: float(value) for name, value in metrics.items()}
        row["transitions_per_s"] = self.transitions / taken
        row["loader_wait"] = self.waited / taken
        self.journal.write(row)
        for name, value in row.items():
            self.board.add_scalar(name, value, self.learner.step)
        self._reset()
        return (
            f"loss {row['loss']:.3f}  {row['transitions_per_s']:,.0f} transitions/s  "
            f"waiting {row['loader_wait']:.1%}"
        )

    def close(self) -> None:
        self.journal.close()
        self.board.close()
