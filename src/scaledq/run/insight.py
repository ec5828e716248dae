"""What lies behind a run's values: distributions of returns, and which pixels matter.

Shapes: S frames in a stack, A actions, Z atoms.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scaledq.core.errors import RunError
from scaledq.core.files import write_atomic
from scaledq.core.outputs import Outputs
from scaledq.learn.c51 import C51
from scaledq.play.moment import Explain, Insight
from scaledq.play.player import player
from scaledq.play.policy import NetPolicy
from scaledq.play.video import Act, action_names, record, watch
from scaledq.run.folder import Run

UNSEEN = np.zeros(0, np.float32)


def explain(run: Run, *, saliency: bool = True) -> Explain:
    """How to look behind the values of the run's policy.

    Saliency is the absolute gradient of the best action's lead over the mean of all, with respect
    to the newest frame (Simonyan et al., 2013), over the largest in the picture.

    Raises:
      RunError: the policy acts from a memory.
    """
    policy = run.policy()
    if not isinstance(policy, NetPolicy):
        raise RunError(f"{run.name} acts from its memory: nothing is known but what it does")
    return partial(_look, run, policy, saliency=saliency)


def _look(
    run: Run, policy: NetPolicy, obs: np.ndarray, head: np.ndarray, *, saliency: bool
) -> Insight:
    seen = torch.from_numpy(obs).to(policy.device)
    heads = torch.from_numpy(np.asarray(head, np.int64)).to(policy.device)
    if not saliency:
        with torch.no_grad():
            outputs = policy.net(seen, heads)
        return Insight(*_returns(run, outputs, int(head[0])), UNSEEN)
    seen = (seen.float() / 255 if obs.dtype == np.uint8 else seen.float()).requires_grad_()
    with torch.enable_grad():
        outputs = policy.net(seen, heads)
        (gradient,) = torch.autograd.grad(_lead(policy.preferences(outputs)), seen)
    heat = gradient[0, -1].abs()
    heat = heat.amax(-1) if heat.ndim == 3 else heat
    heat = (heat / heat.max().clamp(min=1e-12)).cpu().numpy()
    return Insight(*_returns(run, outputs, int(head[0])), heat)


def _returns(run: Run, outputs: Outputs, head: int) -> tuple[np.ndarray, np.ndarray]:
    """Each action's distribution of returns, and what it is over; empty where there is none."""
    td = run.config.objective.td
    if not isinstance(td, C51) or "q" not in outputs:
        return np.zeros(0), np.zeros((0, 0))
    logits = outputs["q"].detach()
    probs = logits[0, : run.tasks[head].actions].softmax(-1)
    return td.support(logits).cpu().numpy(), probs.cpu().numpy()


def _lead(preferences: Tensor) -> Tensor:
    known = preferences[preferences.isfinite()]
    return known.max() - known.mean()


def acts(
    runs: Sequence[Run], title: str, *, saliency: bool, keep: int | None = None
) -> dict[str, Act]:
    """The runs as players by label: by number and name, or a single one by the title.

    Args:
      keep: of the first run, see `SequencePolicy`.

    Raises:
      RunError: saliency was asked for, and a run acts from a memory.
      ConfigError: a `keep` that the first run does not allow.
    """
    labels = [f"{place}. {run.name}" for place, run in enumerate(runs, 1)]
    if keep is not None:
        labels[0] += f" (keep {keep})"
    labels = labels if len(runs) > 1 else [title]
    keeps = (keep, *[None] * (len(runs) - 1))
    players = (act(r, saliency=saliency, keep=k) for r, k in zip(runs, keeps, strict=True))
    return dict(zip(labels, players, strict=True))


def act(run: Run, *, saliency: bool, keep: int | None = None) -> Act:
    """The run as a player whose distributions of returns can be seen, if it has any."""
    policy = run.policy(keep=keep)
    blind = not isinstance(policy, NetPolicy) and not saliency
    return Act(policy, None if blind else explain(run, saliency=saliency))


def write_film(
    runs: Sequence[Run],
    task: str,
    out: Path,
    *,
    seed: int,
    max_steps: int,
    saliency: bool = False,
    keep: int | None = None,
) -> None:
    """Films the runs at the same episode of a task, side by side, as mp4.

    Args:
      keep: of the first run, see `SequencePolicy`.

    Raises:
      ConfigError: a `keep` that the first run does not allow.
      RunError: `out` is no mp4 file or cannot be written, or a run with a memory should be salient.
      TaskError: a task that a run does not know, or without pictures.
    """
    rules, played = runs[0].config.protocol, acts(runs, task, saliency=saliency, keep=keep)
    record(played, task, rules, out=out, seed=seed, max_steps=max_steps)


def write_player(
    runs: Sequence[Run],
    task: str,
    out: Path,
    *,
    seed: int,
    max_steps: int,
    keep: int | None = None,
) -> None:
    """Writes the page in which the runs play the same episode of a task, side by side.

    Raises:
      ConfigError: a `keep` that the first run does not allow.
      RunError: `out` cannot be written, or a run acts from a memory.
      TaskError: a task that a run does not know, or without pictures.
    """
    rules = runs[0].config.protocol
    plays = {
        label: list(watch(act, task, rules, seed=seed, max_steps=max_steps))
        for label, act in acts(runs, runs[0].name, saliency=True, keep=keep).items()
    }
    page = player(plays, action_names(task), title=f"{task}, {rules.name}, seed {seed}")
    try:
        write_atomic(out, page)
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror or error}") from error
