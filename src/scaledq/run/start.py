"""What a run takes over from another one before its first step (section 5.2, figure 1)."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from scaledq.core.errors import ConfigError, RunError, suggest
from scaledq.core.task import Task
from scaledq.learn.learner import Learner
from scaledq.nets.head import ENCODER, HEADS
from scaledq.nets.transformer import TransformerConfig
from scaledq.run.config import RunConfig, Start
from scaledq.run.folder import WEIGHTS, Run, open_run

PARTS = {"encoder": "the encoder", "body": "all but the heads", "all": "the whole network"}


def identified(cfg: RunConfig) -> RunConfig:
    """The config with the checksum of the weights that it starts from, if it does.

    Raises:
      ConfigError: it should start from another run, but does not say which.
      RunError: that run is none, is unfinished, or has other weights than the config says.
    """
    start = cfg.start
    if not start.run:
        if start != Start():
            wanted = f"a finished run of {start.of!r}" if start.of else "another, finished run"
            raise ConfigError(f"this run starts from {wanted}: give its folder as --start.run")
        return cfg
    source = _source(start)
    digest = source.weights
    if start.weights not in ("", digest):
        raise RunError(
            f"{source.folder / WEIGHTS} has checksum {digest[:12]}, start.weights is "
            f"{start.weights[:12]}: give the run that it was made for, or leave start.weights out"
        )
    return replace(cfg, start=replace(start, weights=digest))


def kept_tasks(cfg: RunConfig) -> tuple[Task, ...]:
    """The tasks that the run keeps without data of them.

    Raises:
      ConfigError: the source has no such task.
    """
    if not cfg.start.keep:
        return ()
    known = {task.name: task for task in _source(cfg.start).tasks}
    for name in cfg.start.keep:
        if name not in known:
            raise ConfigError(
                f"start.keep: {cfg.start.run} has no {name!r}; {suggest(name, known)}"
            )
    return tuple(known[name] for name in cfg.start.keep)


def take_over(
    net: nn.Module, cfg: RunConfig, tasks: tuple[Task, ...], *, data: str
) -> dict[str, Any]:
    """Puts the source's weights into `net`, bit for bit, and freezes them if the config says so.

    Args:
      net: the run's own network over `tasks`, as its seed made it.
      data: digest of the run's logs.

    Returns:
      What was taken over, from which run, and in what that run differs: facts for run.json; empty
      where the run starts from nothing.

    Raises:
      RunError: the source's network does not fit.
    """
    start = cfg.start
    if not start.run:
        return {}
    source = _source(start)
    _check_fit(source, cfg, tasks)
    theirs = _weights(source)
    taken = _prefixes(net, start, source)
    names = [name for name in net.state_dict() if _is_taken(name, taken)]
    _copy(net, theirs, names, source)
    if start.parts == "all":
        names += _copy_heads(net, theirs, source, tasks, _lenders(cfg, source, tasks))
    if start.frozen and not start.thaw:
        for name, parameter in net.named_parameters():
            if _is_taken(name, taken):
                parameter.requires_grad_(False)
    other = differences(source, cfg, tasks, data=data)
    said = (
        f"starting from the {start.parts if start.parts != 'all' else 'network'} of {source.name}"
    )
    print(f"{said}, which had {'; '.join(other)}" if other else said, file=sys.stderr)
    return {"run": source.name, "tensors": len(names), "differences": list(other)}


def hold_back(learner: Learner, cfg: RunConfig) -> None:
    """Lets what was taken over rest for the first `start.thaw` updates."""
    if cfg.start.thaw:
        prefixes = _prefixes(learner.net, cfg.start, _source(cfg.start))
        named = learner.net.named_parameters()
        learner.hold((p for name, p in named if _is_taken(name, prefixes)), until=cfg.start.thaw)


def differences(
    source: Run, cfg: RunConfig, tasks: tuple[Task, ...], *, data: str
) -> tuple[str, ...]:
    """In words, in what the source's experience was not this run's."""
    old, new = source.config, cfg
    out = [] if source.facts.get("data") == data else ["other logs"]
    if old.protocol != new.protocol:
        out.append(f"protocol {old.protocol.name!r}, here {new.protocol.name!r}")
    for field in ("n_step", "gamma", "reward_clip"):
        before, now = getattr(old.transitions, field), getattr(new.transitions, field)
        if before != now:
            out.append(f"{field} {before}, here {now}")
    for field in ("frame_shape", "frame_dtype"):
        before, now = getattr(source.tasks[0], field), getattr(tasks[0], field)
        if before != now:
            out.append(f"frames of {before}, here {now}")
    return tuple(out)


def _source(start: Start) -> Run:
    run = open_run(Path(start.run))
    kind = run.config.objective.kind
    if start.of and kind != start.of:
        raise RunError(
            f"{run.folder} is a run of {kind!r}; this one starts from one of {start.of!r}"
        )
    if not run.finished:
        raise RunError(f"{run.folder} has not finished: go on with `scaledq train ... --resume`")
    return run


def _check_fit(source: Run, cfg: RunConfig, tasks: tuple[Task, ...]) -> None:
    old, wanted = source.config, cfg.encoder
    if isinstance(wanted, TransformerConfig) and wanted.resnet and not old.sequential:
        wanted = wanted.resnet
    if old.encoder != wanted:
        raise RunError(
            f"{source.folder} has another encoder: wanted {wanted}, found {old.encoder}; "
            "give this run the same --encoder, or start from another run"
        )
    if old.transitions.stack != cfg.transitions.stack:
        raise RunError(
            f"{source.folder} saw stacks of {old.transitions.stack} frames, this run sees "
            f"{cfg.transitions.stack}; set --transitions.stack {old.transitions.stack}"
        )
    if cfg.start.parts == "all" and old.objective.heads != cfg.objective.heads:
        raise RunError(
            f"the heads of {source.folder} answer another objective ({old.objective.kind}): take "
            "over the encoder or the body only (--start.parts)"
        )
    known = {task.name: task for task in source.tasks}
    for task in tasks if cfg.start.parts == "all" else ():
        if task.name in known and known[task.name].actions != task.actions:
            raise RunError(
                f"{task.name} has {task.actions} actions, and {known[task.name].actions} in "
                f"{source.folder}: it is not the same task"
            )


def _lenders(cfg: RunConfig, source: Run, tasks: tuple[Task, ...]) -> dict[str, str]:
    """New task -> the task of the source whose head it begins with."""
    known, head = {task.name: task for task in source.tasks}, cfg.start.head
    if not head:
        return {}
    if head not in known:
        raise ConfigError(f"start.head: {source.folder} has no {head!r}; {suggest(head, known)}")
    new = [task for task in tasks if task.name in cfg.tasks and task.name not in known]
    for task in new:
        if task.actions != known[head].actions:
            fit = [name for name, other in known.items() if other.actions == task.actions]
            raise ConfigError(
                f"start.head: {task.name} has {task.actions} actions, {head} has "
                f"{known[head].actions}; with as many there is {', '.join(fit) or 'none'}"
            )
    return {task.name: head for task in new}


def _weights(source: Run) -> dict[str, Tensor]:
    if not source.has_weights:
        raise RunError(f"the weights of {source.folder} were not kept: train it again")
    try:
        return load_file(source.folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise RunError(f"{source.folder / WEIGHTS} is damaged ({error}); train it again") from error


def _prefixes(net: nn.Module, start: Start, source: Run) -> tuple[str, ...]:
    """How the names begin of what is taken over, heads aside. Another transformer's encoder is all
    of it: its whole body is fine-tuned (section 5.2)."""
    parts = {name.partition(".")[0] + "." for name, _ in net.named_parameters()} - {HEADS}
    encoder = start.parts == "encoder" and ENCODER in parts and not source.config.sequential
    return (ENCODER,) if encoder else tuple(sorted(parts))


def _is_taken(name: str, prefixes: tuple[str, ...]) -> bool:
    return f"{name}.".startswith(prefixes)


@torch.no_grad()
def _copy(net: nn.Module, theirs: Mapping[str, Tensor], names: list[str], source: Run) -> None:
    mine, seen = net.state_dict(), source.tasks[0]
    for name in names:
        found = tuple(theirs[name].shape) if name in theirs else "nothing"
        if found != tuple(mine[name].shape):
            raise RunError(
                f"{source.folder} does not fit: {name} should be {tuple(mine[name].shape)}, found "
                f"{found}; the two runs need equal encoders, frames (there {seen.frame_dtype} "
                f"{list(seen.frame_shape)}) and (for more) necks"
            )
        mine[name].copy_(theirs[name])


@torch.no_grad()
def _copy_heads(
    net: nn.Module,
    theirs: Mapping[str, Tensor],
    source: Run,
    tasks: tuple[Task, ...],
    lenders: Mapping[str, str],
) -> list[str]:
    """Copies the heads of common tasks, and those that others lend: tensors [N O *D], whose rows O
    are by action, then atom."""
    places = {task.name: index for index, task in enumerate(source.tasks)}
    lent = [lenders.get(task.name, task.name) for task in tasks]
    pairs = [(places[name], here) for here, name in enumerate(lent) if name in places]
    names = [name for name in net.state_dict() if name.startswith(HEADS)]
    for name, mine in net.state_dict().items():
        if name in names:
            rows = min(mine.shape[1], theirs[name].shape[1])
            for there, here in pairs:
                mine[here, :rows].copy_(theirs[name][there, :rows])
    return names
