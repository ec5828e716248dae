"""The training loop: which thing happens at which step, and nothing else."""

import signal
import sys
import time
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from scaledq.core import journal
from scaledq.core.errors import RunError
from scaledq.core.files import locked
from scaledq.core.progress import Progress
from scaledq.data.loader import Loader
from scaledq.learn.learner import Learner
from scaledq.run import assemble
from scaledq.run.checkpoint import State, checkpoints, newest, save_checkpoint, save_weights
from scaledq.run.config import RunConfig
from scaledq.run.folder import METRICS, RUN, WEIGHTS, Run, open_run, surroundings, write_run
from scaledq.run.meter import Meter
from scaledq.run.signals import Interrupted, Stop, listening
from scaledq.run.start import identified, kept_tasks, take_over


def train(cfg: RunConfig, out: Path | str = "runs", *, resume: bool = False) -> Run:
    """Trains the run that `cfg` describes in `out/<slug>-<fingerprint>`; a finished one is kept.

    Raises:
      RunError: the folder is in use, or holds another run or an unfinished one without `resume`;
        or there is nothing to start from where `cfg.start` says.
      DivergedError: a loss or gradient norm was not finite.
      Interrupted: SIGINT or SIGTERM came; a checkpoint was written first.
    """
    cfg = identified(cfg)
    folder = Path(out) / cfg.folder
    if (folder / RUN).exists() and open_run(folder).finished:
        print(f"already finished: {folder}", file=sys.stderr)
        return open_run(folder)
    loader = assemble.loader(cfg)
    tasks = (*loader.tasks, *kept_tasks(cfg))
    net = assemble.network(cfg, tasks)
    taken = take_over(net, cfg, tasks, data=loader.digest)
    learner = assemble.learner(cfg, tasks, device=assemble.device(), net=net)
    with locked(folder):
        start = Run(folder, cfg, tasks, {"start": taken} if taken else {})
        run = _begin(start, loader, learner, resume=resume)
        seconds = _restore(run, learner)
        with listening() as stop:
            seconds = _loop(run, loader, learner, stop, seconds=seconds)
        return _finish(run, learner, seconds=seconds)


def _begin(start: Run, loader: Loader, learner: Learner, *, resume: bool) -> Run:
    """Writes run.json with the facts, or checks that the one there is this run."""
    folder, cfg = start.folder, start.config
    if (folder / RUN).exists():
        run = open_run(folder)
        if run.config.placeless != cfg.placeless:
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
    facts |= {"parameters": parameters, **start.facts, **surroundings()}
    run = replace(start, facts=facts)
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
            batch = batch.to(assemble.device(), non_blocking=True)
            metrics = learner.update(batch)
            meter.count(len(batch), loader.waited)
            if learner.step % cfg.log_every == 0 or learner.step == cfg.steps:
                learner.check()
                returns = loader.returns(learner.step - 1).to(batch.reward.device)
                bar.show(learner.step, meter.write(metrics, batch, returns))
            if learner.step % cfg.checkpoint_every == 0 or stop:
                _save(run, learner, seconds=time.monotonic() - began)
            if stop:
                raise _interrupted(run, learner, stop)
    return time.monotonic() - began


def _interrupted(run: Run, learner: Learner, stop: Stop) -> Interrupted:
    name = signal.Signals(stop.number).name
    return Interrupted(
        f"{name}: stopped at step {learner.step:,} of {run.config.steps:,} with a checkpoint in "
        f"{run.folder}; go on with --resume",
        number=stop.number,
    )


def _finish(run: Run, learner: Learner, *, seconds: float) -> Run:
    """Leaves the weights, and run.json with what the run took."""
    done = replace(run, facts={**run.facts, "seconds": round(seconds, 1)})
    write_run(done)
    save_weights(run.folder / WEIGHTS, learner.net.state_dict(), {"run": run.name})
    return done
