"""Which of several policies to take, where nobody can play: estimates from logs, and a choice.

Every run (or every checkpoint of it) is a candidate. Fitted Q evaluation tells what each would earn
from where the logs' episodes begin, discounted and with rewards clipped as in training; a gain is
that value less the behaviour's own, in standard deviations of the logs' returns, so that tasks can
be averaged. Shapes: P candidates, N tasks, K replicates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from scaledq.core.batch import Batch
from scaledq.core.errors import RunError
from scaledq.core.progress import Progress
from scaledq.data.loader import Loader
from scaledq.data.store import open_store
from scaledq.learn.fqe import Acting, FittedQ, FQEConfig, check_finite, probabilities
from scaledq.learn.health import advise
from scaledq.play.policy import NetPolicy, index
from scaledq.run import assemble
from scaledq.run.checkpoint import checkpoints, load_checkpoint
from scaledq.run.folder import Run


@dataclass(frozen=True, slots=True)
class Candidate:
    """A policy, and where it lies."""

    name: str
    folder: Path
    policy: NetPolicy
    health: tuple[str, ...]
    """What the learning-health panel warns of at its step."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the logs say of one candidate."""

    name: str
    folder: Path
    gain: float
    """Over the behaviour, in standard deviations of its returns, mean over tasks."""
    low: float
    high: float
    """95 % bootstrap interval of the gain, over episodes."""
    best: float
    """Share of the replicates in which no other candidate is better."""
    values: dict[str, float]
    """Discounted value of each task."""
    behaviour: dict[str, float]
    """What the logs' own episodes earned, likewise."""
    health: tuple[str, ...]


def select(
    runs: Sequence[Run],
    *,
    stores: Sequence[str] = (),
    every_checkpoint: bool = False,
    cfg: FQEConfig | None = None,
) -> list[Verdict]:
    """The candidates, best first.

    Args:
      stores: where to look at them; the first run's own by default.
      every_checkpoint: not only where training ended.

    Raises:
      RunError: no runs, runs of unequal tasks or with a memory, or too few beginnings in the logs.
      DivergedError: the evaluation did.
    """
    if not runs:
        raise RunError("select needs at least one run; give folders of `scaledq train`")
    cfg = cfg or FQEConfig()
    for run in runs[1:]:
        if set(run.config.tasks) != set(runs[0].config.tasks):
            raise RunError(
                f"{run.name} and {runs[0].name} play different tasks; select among equals"
            )
    found = [c for run in runs for c in candidates(run, every_checkpoint=every_checkpoint)]
    loader = _loader(runs[0], found, stores, cfg)
    fitted = _fit(runs[0], found, loader, cfg)
    return _verdicts(found, fitted, loader, cfg)


def candidates(run: Run, *, every_checkpoint: bool) -> list[Candidate]:
    """The run's policy, and with `every_checkpoint` those of its checkpoints before the last step.

    Raises:
      RunError: the run is not finished, or its policy has a memory.
    """
    policy = run.policy()
    if not isinstance(policy, NetPolicy):
        raise RunError(
            f"{run.name} acts from its memory; only policies of one observation are told"
        )
    rows = run.metrics
    out = [Candidate(run.name, run.folder, policy, _health(rows, run.config.steps))]
    for place in checkpoints(run.folder / "checkpoints") if every_checkpoint else ():
        state = load_checkpoint(place)
        if state.step < run.config.steps:
            net = assemble.network(run.config, run.tasks)
            tensors = {k: v for k, v in state.tensors.items() if k.startswith("net.")}
            net.load_state_dict({k.removeprefix("net."): v for k, v in tensors.items()})
            other = assemble.policy(
                run.config, net.eval(), selection=None, device="cpu", frame=run.tasks[0]
            )
            assert isinstance(other, NetPolicy)
            name = f"{run.name}@{state.step}"
            out.append(Candidate(name, place, other, _health(rows, state.step)))
    return out


def _health(rows: Sequence[dict], step: int) -> tuple[str, ...]:
    logged = [row for row in rows if row["step"] <= step]
    last = logged[-1] if logged else {}
    return tuple(advise({name: float(value) for name, value in last.items()}))


def _loader(run: Run, found: Sequence[Candidate], stores: Sequence[str], cfg: FQEConfig) -> Loader:
    """One-step transitions, with as many frames as the candidate that wants most of them."""
    stack = max(c.policy.stack for c in found)
    return Loader(
        [open_store(path) for path in stores or run.config.stores],
        run.config.tasks,
        view=run.config.view,
        transitions=replace(run.config.transitions, stack=stack, n_step=1),
        batch_size=cfg.batch_size,
        seed=cfg.seed,
    )


def _fit(run: Run, found: Sequence[Candidate], loader: Loader, cfg: FQEConfig) -> FittedQ:
    net = assemble.untrained(
        run.config.encoder,
        replace(run.config.neck, unit_norm=False, feature_scale=1.0),
        loader.tasks,
        stack=max(c.policy.stack for c in found),
        heads=(cfg.head(len(found)),),
        seed=cfg.seed,
    )
    fitted = FittedQ(net, _acting(found, loader), cfg)
    with Progress("evaluate on logs", cfg.steps) as bar:
        for step, batch in enumerate(loader.stream(0, cfg.steps)):
            assert isinstance(batch, Batch)
            weights = torch.from_numpy(cfg.weights(loader.episodes(step)))
            loss = fitted.update(batch, weights)
            if step % 100 == 99 or step == cfg.steps - 1:
                check_finite(loss, step=step)
                bar.show(step + 1, f"error {float(loss):.3g}")
    return fitted


def _acting(found: Sequence[Candidate], loader: Loader) -> Acting:
    """What all candidates do, as probabilities; each sees as many frames as it is used to."""
    heads = [torch.tensor([index(c.policy, task.name) for task in loader.tasks]) for c in found]
    most = max(task.actions for task in loader.tasks)

    @torch.no_grad()
    def acting(obs: Tensor, task: Tensor) -> Float[Tensor, "B P A"]:
        out = []
        for candidate, own in zip(found, heads, strict=True):
            policy = candidate.policy
            seen = obs[:, -policy.stack :]
            preferences = policy.preferences(policy.net(seen, own[task])).float()[:, :most]
            sampled = policy.selection == "sampled"
            out.append(probabilities(preferences, sampled=sampled, epsilon=0.0))
        return torch.stack(out, dim=1)

    return acting


def _verdicts(
    found: Sequence[Candidate], fitted: FittedQ, loader: Loader, cfg: FQEConfig
) -> list[Verdict]:
    names = [task.name for task in loader.tasks]
    stack = max(c.policy.stack for c in found)
    values = np.empty((len(names), len(found), cfg.replicates))
    gains, behaviour = np.empty_like(values), {}
    for number, name in enumerate(names):
        begun = loader.beginnings(number, cfg.beginnings)
        if len(begun.episodes) < 2:
            raise RunError(
                f"the logs of {name} hold {len(begun.episodes)} episodes; need at least 2"
            )
        weights = cfg.weights(begun.episodes)
        weights /= np.maximum(weights.sum(0), 1)
        own = begun.returns @ weights
        behaviour[name] = float(own[0])
        seen = _at_beginnings(fitted, begun.frames, number, stack=stack)
        values[number] = (seen * weights[:, None]).sum(0)
        gains[number] = (values[number] - own) / max(float(begun.returns.std()), 1e-3)
    mean = gains.mean(0)  # [P K]
    best = (mean[:, 1:] >= mean[:, 1:].max(0)).mean(1)
    order = np.argsort(-mean[:, 0], kind="stable")
    low, high = np.percentile(mean[:, 1:], [2.5, 97.5], axis=1)
    return [
        Verdict(
            name=found[p].name,
            folder=found[p].folder,
            gain=float(mean[p, 0]),
            low=float(low[p]),
            high=float(high[p]),
            best=float(best[p]),
            values={name: float(values[n, p, 0]) for n, name in enumerate(names)},
            behaviour=behaviour,
            health=found[p].health,
        )
        for p in order.tolist()
    ]


def _at_beginnings(
    fitted: FittedQ, frames: np.ndarray, task: int, *, stack: int
) -> Float[np.ndarray, "E P K"]:
    """Values of states that are an episode's first: zeros stand before the frame."""
    obs = np.zeros((len(frames), stack, *frames.shape[1:]), frames.dtype)
    obs[:, -1] = frames
    heads = torch.full((len(frames),), task)
    return fitted.values(torch.from_numpy(obs), heads).numpy()
