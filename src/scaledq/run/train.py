"""The training loop: which thing happens at which step, and nothing else."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from scaledq.core import journal
from scaledq.core.batch import Batch, Windows
from scaledq.core.errors import ConfigError, RunError
from scaledq.core.files import locked
from scaledq.core.progress import Progress
from scaledq.data.loader import Loader
from scaledq.learn.learner import Learner
from scaledq.run import assemble
from scaledq.run.checkpoint import (
    State,
    checkpoints,
    discard_partial,
    load_checkpoint,
    newest,
    place_of,
)
from scaledq.run.compute import feed
from scaledq.run.config import RunConfig
from scaledq.run.folder import METRICS, RUN, Run, finish, open_run, surroundings, write_run
from scaledq.run.meter import Meter
from scaledq.run.online import train_online
from scaledq.run.parallel import TIMEOUT, Ranks, joined
from scaledq.run.saver import Saver
from scaledq.run.signals import Interrupted, Stop, listening
from scaledq.run.start import hold_back, identified, kept_tasks, take_over
from scaledq.run.watch import COMPUTING, LOADING


def train(
    cfg: RunConfig, out: Path | str = "runs", *, resume: bool = False, timeout: float = TIMEOUT
) -> Run:
    """Trains the run that `cfg` describes in `out/<slug>-<fingerprint>`; a finished one is kept.

    Under torchrun, all its processes train this one run; `out` lies where all of them see it.

    Args:
      timeout: seconds after which a process among several that makes no progress ends the run.

    Raises:
      RunError: the folder is in use, or holds another run or an unfinished one without `resume`;
        or there is nothing to start from where `cfg.start` says; or another process of the run
        died, hung or failed.
      ConfigError: a tracker of `cfg.track` is not installed.
      DivergedError: a loss or gradient norm was not finite.
      Interrupted: SIGINT, SIGTERM or SIGUSR1 came; a checkpoint was written first.
    """
    if cfg.online:
        return train_online(cfg, out, resume=resume)
    cfg = identified(cfg)
    folder = Path(out) / cfg.folder
    told = assemble.tracking(cfg, folder)
    with joined(assemble.device(), timeout=timeout) as ranks, ExitStack() as held:
        if ranks.lead(lambda: _finished(folder)):
            return open_run(folder)
        loader = assemble.loader(cfg, ranks)
        tasks = (*loader.tasks, *kept_tasks(cfg))
        net = assemble.network(cfg, tasks)
        taken = take_over(net, cfg, tasks, data=loader.digest)
        learner = assemble.learner(cfg, tasks, device=ranks.device, net=net, ranks=ranks)
        if cfg.start.thaw and ranks.world > 1:
            raise ConfigError("start.thaw: only a run of one process can thaw; leave it 0")
        hold_back(learner, cfg)
        start = Run(folder, cfg, tasks, {"start": taken} if taken else {})

        def begin() -> str:
            held.enter_context(locked(folder))
            _begin(start, loader, learner, resume=resume)
            return ""

        ranks.at(-1, LOADING)  # opening large stores takes its time
        with _writing(folder):
            ranks.lead(begin)
            run = open_run(folder)
            seconds = _restore(run, learner, ranks)
            if ranks.first:
                held.enter_context(told)
            with listening() as stop:
                seconds = _loop(run, loader, learner, stop, seconds=seconds, ranks=ranks)
            return _finish(run, learner, seconds=seconds, ranks=ranks)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """What the disk refuses becomes an error of ours."""
    try:
        yield
    except BrokenPipeError:  # who read what we print has gone
        raise
    except OSError as error:
        raise RunError(
            f"cannot write in {folder}: {error.strerror or error}; free some space there and go "
            "on with --resume"
        ) from error


def _finished(folder: Path) -> str:
    if (folder / RUN).exists() and open_run(folder).has_weights:
        print(f"already finished: {folder}", file=sys.stderr)
        return "finished"
    return ""


def _begin(start: Run, loader: Loader, learner: Learner, *, resume: bool) -> None:
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
        discard_partial(folder / "checkpoints")
        return
    parameters = sum(p.numel() for p in learner.net.parameters())
    facts = {"data": loader.digest, "transitions": [int(n) for n in loader.sizes]}
    facts |= {"parameters": parameters, **start.facts, **surroundings()}
    write_run(replace(start, facts=facts))


def _restore(run: Run, learner: Learner, ranks: Ranks) -> float:
    """Puts the learner where the newest checkpoint left it; returns the seconds spent so far."""
    place = ranks.lead(lambda: _newest(run))
    if not place:
        return 0.0
    state = load_checkpoint(Path(place))
    learner.load_state_dict({**state.tensors, "step": state.step})
    return float(state.scalars["seconds"])


def _newest(run: Run) -> str:
    """Finds the newest checkpoint that is whole, and makes the journal end where it was taken."""
    folder = run.folder / "checkpoints"
    state = newest(folder, warn=lambda line: print(line, file=sys.stderr))
    step = -1 if state is None else state.step
    journal.retain(run.folder / METRICS, lambda row: row["step"] <= step)
    if state is None:
        return ""
    print(f"resuming {run.name} at step {step:,}", file=sys.stderr)
    return str(place_of(folder, step))


def _save(saver: Saver, learner: Learner, *, seconds: float) -> None:
    learner.check()
    tensors = {k: v for k, v in learner.state_dict().items() if isinstance(v, Tensor)}
    saver.save(State(step=learner.step, tensors=tensors, scalars={"seconds": seconds}))


def _loop(
    run: Run, loader: Loader, learner: Learner, stop: Stop, *, seconds: float, ranks: Ranks
) -> float:
    """Runs the remaining steps; returns the seconds that training has taken in all."""
    cfg = run.config
    began = time.monotonic() - seconds
    with ExitStack() as stack:
        meter = stack.enter_context(closing(Meter(run, learner, writes=ranks.first)))
        bar = Progress(f"train {run.name}", cfg.steps)
        if ranks.first:
            stack.enter_context(bar)
        saver = stack.enter_context(_saver(run, ranks))
        batches = stack.enter_context(closing(loader.stream(learner.step, cfg.steps)))
        for batch in feed(batches, ranks.device):
            ranks.at(learner.step, COMPUTING)
            metrics = learner.update(batch)
            meter.count(cfg.batch_size, loader.waited)
            if learner.step % cfg.log_every == 0 or learner.step == cfg.steps:
                learner.check()
                returns = _returns(loader, learner, batch)
                remark = meter.write(metrics, batch, returns)
                if ranks.first:
                    bar.show(learner.step, remark)
            saver.check()
            number = ranks.agreed(stop.number)
            if learner.step % cfg.checkpoint_every == 0 or number:
                _save(saver, learner, seconds=time.monotonic() - began)
            if number:
                saver.wait()
                raise _interrupted(run, learner, number)
            ranks.at(learner.step, LOADING)
        saver.wait()
    return time.monotonic() - began


def _returns(loader: Loader, learner: Learner, batch: Batch | Windows) -> Tensor | None:
    """The Monte-Carlo returns of the batch of the last step, if it holds transitions."""
    if isinstance(batch, Windows):
        return None
    return loader.returns(learner.step - 1).to(batch.reward.device)


def _saver(run: Run, ranks: Ranks) -> Saver:
    group = ranks.saving if run.config.compute.shard and ranks.world > 1 else None
    folder, keep = run.folder / "checkpoints", run.config.checkpoints
    return Saver(folder, keep=keep, first=ranks.first, group=group)


def _interrupted(run: Run, learner: Learner, number: int) -> Interrupted:
    name = signal.Signals(number).name
    return Interrupted(
        f"{name}: stopped at step {learner.step:,} of {run.config.steps:,} with a checkpoint in "
        f"{run.folder}; go on with --resume",
        number=number,
    )


def _finish(run: Run, learner: Learner, *, seconds: float, ranks: Ranks) -> Run:
    weights = learner.weights()

    def leave() -> str:
        finish(run, weights, seconds=seconds)
        return ""

    ranks.lead(leave)
    return open_run(run.folder)
