"""Whether learning is well: numbers for logging steps, their healthy ranges, what usually helps.

Nothing here changes a learner. Shapes: B batch, N tasks, A actions, Z atoms, D features.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from scaledq.core.batch import Batch, Windows
from scaledq.core.errors import ConfigError, suggest
from scaledq.core.outputs import Outputs
from scaledq.learn.c51 import C51
from scaledq.learn.cql import gap, of_action
from scaledq.learn.dr3 import coadaptation
from scaledq.learn.hl_gauss import HLGauss, TwoHot
from scaledq.learn.iql import IQL
from scaledq.learn.learner import Learner
from scaledq.learn.objective import Pretraining, ScaledQL
from scaledq.learn.sequence import DecisionTransformer, SequenceCloning, of_windows
from scaledq.learn.td import TDError

Supported = C51 | HLGauss | TwoHot


@dataclass(frozen=True)
class Range:
    """Where a number usually lies when learning goes well, and what to do when it does not."""

    low: float
    high: float
    advice: str


INF = float("inf")
HEALTHY: dict[str, Range] = {
    "overestimation": Range(
        -3.0,
        3.0,
        "values are far from what play returned: too high, raise alpha; too low, lower it",
    ),
    "cql_gap": Range(
        0.0, 10.0, "the policy's actions are valued far above the data's: raise alpha, or more data"
    ),
    "feature_norm": Range(
        1e-3, 1e3, "features vanish or explode: turn neck.unit_norm on, or lower optim.lr"
    ),
    "effective_rank": Range(
        5.0, INF, "features have collapsed: neck.unit_norm, a dr3 weight of 0.03, or alpha up"
    ),
    "coadaptation": Range(
        -INF, 1e3, "features of successive states grow alike: neck.unit_norm, or dr3 above 0"
    ),
    "dead_units": Range(0.0, 0.5, "most features are never active: lower optim.lr, add warm-up"),
    "end_mass": Range(0.0, 0.05, "predicted returns pile up at the support's ends: widen it"),
    "clipped": Range(0.0, 0.01, "the support cuts off target mass: widen td.v_min and td.v_max"),
    "grad_norm": Range(1e-8, 1e3, "the gradient vanishes or explodes: check optim.lr, set clip"),
    "conflict": Range(
        -0.2, 1.0, "tasks pull against each other: td c51 or hl_gauss, a wider net, larger batches"
    ),
    "agreement": Range(
        0.02, 1.0, "the policy hardly ever does what the data did: raise alpha, or train longer"
    ),
}


def advise(values: Mapping[str, float]) -> list[str]:
    """A sentence for each number outside its healthy range; unknown ones are passed by."""
    out = []
    for name, healthy in HEALTHY.items():
        value = values.get(name)
        if value is None or value != value or healthy.low <= value <= healthy.high:
            continue
        line = f"{name} is {value:.3g}, usually {healthy.low:g} to {healthy.high:g}"
        line = f"{line}: {healthy.advice}"
        if name in ("clipped", "end_mass") and "support_low" in values:
            low, high = values["support_low"], values["support_high"]
            line += f"; at least [{low:.3g}, {high:.3g}] would fit"
        out.append(line)
    return out


@torch.no_grad()
def measure(
    learner: Learner, batch: Batch | Windows, *, returns: Float[Tensor, "B"] | None = None
) -> dict[str, float]:
    """What one batch shows of a learner's health; waits for the device.

    Args:
      returns: Monte-Carlo returns from each row's state and action on, of the same clipped rewards
        and discount that the run trains on; NaN where unknown.

    Returns:
      feature_norm, effective_rank, coadaptation, dead_units, agreement; with a TD error q_data,
      q_greedy, cql_gap, and where returns are known return_data and overestimation; with a
      support end_mass, clipped, support_low and support_high. Q, but for the gap, is in units of
      the rewards: unitary scaling is undone. Of windows: agreement, feature_norm, effective_rank,
      dead_units, reward_accuracy and, with returns to go, return_accuracy.
    """
    if isinstance(batch, Windows):
        return _numbers(_of_sequences(learner, batch))
    assert not isinstance(learner.objective, Pretraining), "nothing is preferred"
    outputs = learner.net(batch.obs, batch.task)
    next_outputs = learner.net(batch.next_obs, batch.task)
    choice = learner.objective.preferences(outputs).argmax(-1)
    values = of_features(outputs["features"], next_outputs["features"])
    values["agreement"] = (choice == batch.action).float().mean()
    td = learner.objective.td
    if td is not None:
        scale = learner.reward_scale()[batch.task].float() if learner.unitary else None
        values |= of_values(td, outputs, batch, choice=choice, returns=returns, scale=scale)
    if isinstance(td, Supported):
        values |= _of_support(learner, td, outputs, next_outputs, batch, returns)
    return _numbers(values)


def _numbers(values: dict[str, Tensor]) -> dict[str, float]:
    """On the host; without what is not a number."""
    names, numbers = list(values), torch.stack([v.float() for v in values.values()]).tolist()
    return {name: x for name, x in zip(names, numbers, strict=True) if x == x}


def _of_sequences(learner: Learner, windows: Windows) -> dict[str, Tensor]:
    """Without dropout; features are those that the policy reads, at every real step."""
    objective = learner.objective
    assert isinstance(objective, DecisionTransformer | SequenceCloning), "windows are theirs"
    training = learner.net.training
    learner.net.eval()
    outputs = objective.answer(learner.net, windows)
    learner.net.train(training)
    features = outputs["features"][windows.real]
    values = of_features(features, features)
    del values["coadaptation"]
    return values | of_windows(objective, outputs, windows)


def of_features(
    features: Float[Tensor, "B D"], next_features: Float[Tensor, "B D"]
) -> dict[str, Tensor]:
    """Norm, effective rank, DR3's dot product, and the share of units that are 0 in every row."""
    return {
        "feature_norm": features.norm(dim=-1).mean(),
        "effective_rank": effective_rank(features),
        "coadaptation": coadaptation(features, next_features).mean(),
        "dead_units": (features == 0).all(0).float().mean(),
    }


def effective_rank(features: Float[Tensor, "B D"], *, delta: float = 0.01) -> Tensor:
    """srank: how many singular values it takes to reach the share 1 - delta of their sum.

    Kumar et al. (2021), https://arxiv.org/abs/2010.14498, section 3; at most min(B, D).
    """
    singular = torch.linalg.svdvals(features.float())
    share = singular.cumsum(0) / singular.sum()
    return (share < 1 - delta).sum() + 1


def of_values(
    td: TDError,
    outputs: Outputs,
    batch: Batch,
    *,
    choice: Tensor,
    returns: Float[Tensor, "B"] | None,
    scale: Float[Tensor, "B"] | None,
) -> dict[str, Tensor]:
    """Q of the data's and of the policy's actions, the CQL gap, and how far Q is from returns.

    `overestimation` is the mean of Q - return in standard deviations of the known returns. A policy
    better than the data's may well lie somewhat above 0.
    """
    q = td.q(outputs["q"])
    values = {"cql_gap": gap(q, batch.action, outputs["available"]).mean()}
    q = q if scale is None else q * scale[:, None]
    taken = of_action(q, batch.action)
    values |= {"q_data": taken.mean(), "q_greedy": of_action(q, choice).mean()}
    if returns is not None and not returns.isnan().all():
        known = ~returns.isnan()
        spread = returns[known].std(correction=0).clamp(min=1e-3)
        values["overestimation"] = (taken[known] - returns[known]).mean() / spread
        values["return_data"] = returns[known].mean()
    return values


def _of_support(
    learner: Learner,
    td: Supported,
    outputs: Outputs,
    next_outputs: Outputs,
    batch: Batch,
    returns: Float[Tensor, "B"] | None,
) -> dict[str, Tensor]:
    """Mass at the support's ends, target mass beyond them, and a range that would hold it."""
    probs = of_action(outputs["q"], batch.action).softmax(-1)
    atoms, mass = target_mass(learner, td, next_outputs, batch)
    outside = (atoms < td.v_min) | (atoms > td.v_max)
    low, high = reach(atoms, mass)
    if returns is not None and not returns.isnan().all():
        known = returns[~returns.isnan()]
        low, high = torch.minimum(low, known.min()), torch.maximum(high, known.max())
    return {
        "end_mass": (probs[:, 0] + probs[:, -1]).mean(),
        "clipped": mass.where(outside, 0).sum(-1).mean(),
        "support_low": low,
        "support_high": high,
    }


def target_mass(
    learner: Learner, td: Supported, next_outputs: Outputs, batch: Batch
) -> tuple[Float[Tensor, "B M"], Float[Tensor, "B M"]]:
    """What the objective backs up, before it is fitted to the support: places, mass at each."""
    objective = learner.objective
    known = batch.reward
    if isinstance(objective, IQL):
        known = known + batch.discount * next_outputs["value"].squeeze(-1)
    if learner.target_net is None or isinstance(objective, IQL):
        return known[:, None], torch.ones_like(known)[:, None]
    later = learner.target_net(batch.next_obs, batch.task)
    assert not isinstance(objective, Pretraining), "nothing is backed up"
    copied = isinstance(objective, ScaledQL) and not objective.double
    best = objective.preferences(later if copied else next_outputs).argmax(-1)
    return backed_up(td, of_action(later["q"], best), batch)


def backed_up(
    td: Supported, next_outputs: Float[Tensor, "B Z"], batch: Batch
) -> tuple[Float[Tensor, "B M"], Float[Tensor, "B M"]]:
    """The target before it is fitted to the support: places, and the mass at each."""
    reward, discount = batch.reward[:, None], batch.discount[:, None]
    if isinstance(td, C51):
        return reward + discount * td.support(reward), next_outputs.softmax(-1)
    return reward + discount * td.q(next_outputs)[:, None], torch.ones_like(reward)


def reach(
    atoms: Float[Tensor, "B M"], mass: Float[Tensor, "B M"], *, tail: float = 1e-3
) -> tuple[Tensor, Tensor]:
    """The range that leaves a share `tail` of all the mass beyond either end."""
    places, order = atoms.flatten().sort()
    share = mass.flatten()[order].cumsum(0)
    ends = torch.searchsorted(share, share[-1] * torch.tensor([tail, 1 - tail]).to(share))
    low, high = places[ends.clamp(max=len(places) - 1)]
    return low, high


def conflict(
    learner: Learner, batch: Batch | Windows, *, layer: str, tasks: int = 4
) -> dict[str, float]:
    """Cosines between tasks' gradients in one layer: mean and lowest of all pairs.

    One forward pass, then a backward pass for each task down to `layer` and no further, so pick a
    late one, as the neck's. At most `tasks` of the batch's tasks, those with most rows.

    Args:
      layer: parameters whose names start so.

    Returns:
      {"conflict": mean, "conflict_worst": lowest}; empty where the batch has fewer than two tasks.

    Raises:
      ConfigError: no parameter's name starts with `layer`.
    """
    named = dict(learner.net.named_parameters())
    parameters = [p for name, p in named.items() if name.startswith(layer) and p.requires_grad]
    if not parameters:
        parts = {name.split(".")[0] for name in named}
        raise ConfigError(
            f"the network has no layer {layer!r} in training; {suggest(layer, parts)}"
        )
    counts = batch.task.bincount()
    chosen = [t for t in counts.argsort(descending=True).tolist() if counts[t]][:tasks]
    if len(chosen) < 2:
        return {}
    loss, _ = learner.own_losses(learner.scaled(batch))
    gradients = []
    for task in chosen:
        mean = loss[batch.task == task].mean()
        parts = torch.autograd.grad(mean, parameters, retain_graph=True, materialize_grads=True)
        gradients.append(F.normalize(torch.cat([g.flatten() for g in parts]), dim=0))
    cosines = torch.stack([a @ b for a, b in combinations(gradients, 2)])
    return {"conflict": cosines.mean().item(), "conflict_worst": cosines.min().item()}
