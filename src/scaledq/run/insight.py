"""What lies behind a run's values: distributions of returns, and which pixels matter.

Shapes: S frames in a stack, A actions, Z atoms.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scaledq.core.errors import RunError
from scaledq.core.files import write_atomic
from scaledq.learn.c51 import C51
from scaledq.play.player import player
from scaledq.play.policy import NetPolicy
from scaledq.play.video import Explain, Insight, action_names, watch
from scaledq.run.folder import Run


def explain(run: Run) -> Explain:
    """How to look behind the values of the run's policy.

    Saliency is the absolute gradient of the best action's lead over the mean of all, with respect
    to the newest frame (Simonyan et al., 2013), over the largest in the picture.

    Raises:
      RunError: the policy acts from a memory.
    """
    policy, task = run.policy(), run.tasks
    if not isinstance(policy, NetPolicy):
        raise RunError(f"{run.name} acts from its memory; watch it as .mp4")
    td = run.config.objective.td

    def look(obs: np.ndarray, head: np.ndarray) -> Insight:
        seen = torch.from_numpy(obs).float().to(policy.device)
        seen = (seen / 255 if obs.dtype == np.uint8 else seen).requires_grad_()
        heads = torch.from_numpy(np.asarray(head, np.int64)).to(policy.device)
        with torch.enable_grad():
            outputs = policy.net(seen, heads)
            (gradient,) = torch.autograd.grad(_lead(policy.preferences(outputs)), seen)
        places, probs = np.zeros(0), np.zeros((0, 0))
        if isinstance(td, C51) and "q" in outputs:
            actions = task[int(head[0])].actions
            places = td.support(outputs["q"]).detach().cpu().numpy()
            probs = outputs["q"][0, :actions].softmax(-1).detach().cpu().numpy()
        heat = gradient[0, -1].abs()
        heat = heat.amax(-1) if heat.ndim == 3 else heat
        return Insight(places, probs, (heat / heat.max().clamp(min=1e-12)).cpu().numpy())

    return look


def _lead(preferences: Tensor) -> Tensor:
    known = preferences[preferences.isfinite()]
    return known.max() - known.mean()


def write_player(runs: Sequence[Run], task: str, out: Path, *, seed: int, max_steps: int) -> None:
    """Writes the page in which the runs play the same episode of a task, side by side.

    Raises:
      RunError: `out` cannot be written, or a run acts from a memory.
      TaskError: a task that a run does not know, or without pictures.
    """
    rules = runs[0].config.protocol
    plays = {
        f"{place}. {run.name}": list(
            watch(run.policy(), task, rules, seed=seed, max_steps=max_steps, explain=explain(run))
        )
        for place, run in enumerate(runs, 1)
    }
    page = player(plays, action_names(task), title=f"{task}, {rules.name}, seed {seed}")
    try:
        write_atomic(out, page)
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror or error}") from error
