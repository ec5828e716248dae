"""One optimiser step, for every objective.

Shapes: B batch, N tasks.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from scaledq.core.batch import Batch, Windows
from scaledq.core.errors import ConfigError, DivergedError, RunError, suggest
from scaledq.core.outputs import Network
from scaledq.learn.bc import Loss
from scaledq.learn.objective import Objective, ScaledQL
from scaledq.learn.optim import OptimConfig
from scaledq.learn.td import MSE, reward_deviation, reward_moments

State = dict[str, Tensor | int]


class Learner:
    """Owns what a step changes, and only that: weights, target weights, optimiser, step.

    `net` owns the weights; `forward` is the same network as it is to be called in training
    (wrapped for several GPUs), `net` itself by default.

    Args:
      target: the copy that becomes the target network, where `net` cannot be copied any more.
      share: this process's rows over the mean of all processes', so that the mean over ranks is
        the mean over the global batch where it does not split evenly.
      compiled: lets torch.compile fuse all forward passes and the loss.
    """

    def __init__(  # noqa: PLR0913  (what learns, and how this process computes its part of it)
        self,
        net: nn.Module,
        objective: Objective,
        optim: OptimConfig,
        *,
        tasks: int,
        forward: Network | None = None,
        target: nn.Module | None = None,
        share: float = 1.0,
        compiled: bool = False,
    ):
        self.net, self.objective, self.optim, self.tasks = net, objective, optim, tasks
        self.forward: Network = forward or net
        self.target_net: nn.Module | None = None
        if objective.bootstraps:
            held = copy.deepcopy(net) if target is None else target
            self.target_net = held.requires_grad_(False)
        if compiled and isinstance(objective, ScaledQL) and objective.alpha_steps:
            raise ConfigError(
                "objective.alpha_steps: a compiled loss cannot move its weight; set "
                "compute.compile to false, or alpha_steps to 0"
            )
        lose = torch.compile(objective.__call__) if compiled else objective
        self._losses: Callable[..., Loss] = lose  # of the batches that its network reads
        self._parameters = list(net.parameters())
        self.optimizer = optim.build(self._parameters)
        self.step = 0
        self._held: tuple[nn.Parameter, ...] = ()
        self._held_until = 0
        device = next(net.parameters()).device
        self.unitary = isinstance(objective.td, MSE) and objective.td.unitary
        self.reward_moments = torch.zeros(3, tasks, dtype=torch.float64, device=device)
        self.diverged = torch.tensor([-1, 0], device=device)
        """The first step that was not finite, or -1; and whether its loss was to blame."""
        self.share = share

    def update(self, batch: Batch | Windows) -> dict[str, Tensor]:
        """Takes one step; its scalars stay on the device, so that no step waits for the host.

        A step whose loss or gradient is not finite leaves weights and moments as they were;
        `check` then says so.
        """
        for parameter in self._held:
            parameter.requires_grad_(self.step >= self._held_until)
        moments = self._moments(batch)
        loss, terms = self.losses(self.scaled(batch, moments))
        self.optimizer.zero_grad(set_to_none=True)
        mean_loss = self._mean(loss)
        (mean_loss * (self.tasks if self.unitary else 1)).backward()
        trained = [p for p in self._parameters if p.grad is not None]
        grad_norm = get_total_norm([p.grad for p in trained if p.grad is not None])
        if self.optim.clip is not None:
            clip_grads_with_norm_(trained, self.optim.clip, grad_norm)
        grad_norm = _whole(grad_norm)
        means = {"loss": mean_loss.detach()} | {k: self._mean(v) for k, v in terms.items()}
        scalars = dict(zip(means, means_across_ranks(means.values()), strict=True))
        self._move(scalars["loss"], grad_norm, moments)
        return {"loss": scalars.pop("loss"), "grad_norm": grad_norm, **scalars}

    def hold(self, parameters: Iterable[nn.Parameter], *, until: int) -> None:
        """Lets these parameters rest for the first `until` updates; their moments start there."""
        self._held, self._held_until = tuple(parameters), until

    @torch.no_grad()
    def renew(self, weights: Mapping[str, Tensor]) -> None:
        """Puts new values into these parameters and their targets; their moments start anew."""
        for net in (self.net, self.target_net):
            for name, parameter in net.named_parameters() if net else ():
                if name in weights:
                    parameter.copy_(weights[name])
                    self.optimizer.state.pop(parameter, None)

    def losses(self, batch: Batch | Windows) -> tuple[Tensor, dict[str, Tensor]]:
        """Per-sample loss and its terms: all forward passes of a step, and nothing else."""
        moving = isinstance(self.objective, ScaledQL) and self.objective.alpha_steps
        losses = self._now() if moving else self._losses
        return losses(self.forward, self.target_net or self.forward, batch)

    def own_losses(self, batch: Batch | Windows) -> tuple[Tensor, dict[str, Tensor]]:
        """As `losses`, but by this process alone: no other rank takes part."""
        losses = self._now()
        return losses(self.net, self.target_net or self.net, batch)

    def _now(self) -> Callable[..., Loss]:
        """The objective of this update."""
        objective = self.objective
        return (objective.at(self.step) if isinstance(objective, ScaledQL) else objective).__call__

    def check(self) -> None:
        """Waits for the device; for logging steps, and before a checkpoint is written.

        Raises:
          DivergedError: some step since the start was not finite.
        """
        step, by_loss = self.diverged.tolist()
        if step >= 0:
            what = "the loss" if by_loss else "the gradient norm (with a finite loss)"
            raise DivergedError(
                f"step {step}: {what} is not finite; that step was skipped and the weights are "
                "sound. Lower optim.lr, set optim.clip to 10 or optim.warmup to 1000, and look for "
                "NaN or huge rewards and frames in the data"
            )

    def reward_scale(self) -> Tensor:
        """What each task's rewards are divided by [N]; ones without unitary scaling."""
        return reward_deviation(self.reward_moments)

    def scaled(self, batch: Batch | Windows, moments: Tensor | None = None) -> Batch | Windows:
        """The batch as the objective sees it: rewards in units of their task's deviation."""
        if not self.unitary or isinstance(batch, Windows):
            return batch
        scale = reward_deviation(self.reward_moments if moments is None else moments)
        divisor = scale[batch.task].to(batch.reward.dtype)
        returns = None if batch.returns is None else batch.returns / divisor
        return replace(batch, reward=batch.reward / divisor, returns=returns)

    def state_dict(self) -> State:
        """Everything that a step changes, flat: tensors by dotted name, and `step`.

        The tensors are those in use; copy what must outlive the next update.
        """
        state: State = {"step": self.step}
        modules = {"net": self.net, "target": self.target_net}
        for part, module in modules.items():
            if module is not None:
                state |= {f"{part}.{k}": v for k, v in module.state_dict().items()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{index}.{k}": v for k, v in slots.items()}
        if self.unitary:
            state["reward_scale.moments"] = self.reward_moments
        return {
            k: v.detach().contiguous() if isinstance(v, Tensor) else v for k, v in state.items()
        }

    def weights(self) -> dict[str, Tensor]:
        """The network's own weights by name, whole; asked of all ranks where they are spread."""
        return {name: _whole(value) for name, value in self.net.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor | int]) -> None:
        """Continues where `state_dict` was taken: bit for bit on the CPU.

        Raises:
          RunError: the state belongs to another network or objective; names the first difference.
        """
        self._check_names(state)
        tensors = {k: v for k, v in state.items() if isinstance(v, Tensor)}
        _load(self.net, _under("net.", tensors))
        if self.target_net is not None:
            _load(self.target_net, _under("target.", tensors))
        if self.unitary:
            self.reward_moments = tensors["reward_scale.moments"].to(self.reward_moments).clone()
        weights = self._trained()
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in _under("optimizer.", tensors).items():
            index, slot = name.split(".")
            same = value.shape == weights[int(index)].shape  # Adam's count of steps is one number
            kept = _laid_out(value, weights[int(index)]) if same else value.clone()
            slots.setdefault(int(index), {})[slot] = kept
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": slots, "param_groups": groups})
        self.step = int(state["step"])

    def _mean(self, values: Tensor) -> Tensor:
        """This process's summand of the mean over all ranks."""
        return values.mean() if self.share == 1 else values.mean() * self.share

    def _moments(self, batch: Batch | Windows) -> Tensor:
        if not self.unitary or isinstance(batch, Windows):
            return self.reward_moments
        new = reward_moments(batch.step_reward, batch.task, tasks=self.tasks)
        return self.reward_moments + across_ranks(new, mean=False)

    def _move(self, loss: Tensor, grad_norm: Tensor, moments: Tensor) -> None:
        bad = ~(loss.isfinite() & grad_norm.isfinite())
        now = torch.stack([torch.full_like(self.diverged[0], self.step), ~loss.isfinite()])
        self.diverged = torch.where(bad & (self.diverged[0] < 0), now, self.diverged)
        if self.unitary:
            self.reward_moments = torch.where(bad, self.reward_moments, moments)
        for group in self.optimizer.param_groups:
            group["lr"] = self.optim.lr_at(self.step)
        setattr(self.optimizer, "found_inf", bad.float())  # what a GradScaler sets
        self.optimizer.step()
        self.step += 1
        if self.target_net is not None and self.step % self.optim.target_every == 0:
            follow(self.target_net, self.net, fraction=self.optim.target_fraction)

    def _check_names(self, state: Mapping[str, Tensor | int]) -> None:
        mine = {k for k in self.state_dict() if not k.startswith("optimizer.")}
        theirs = {k for k in state if not k.startswith("optimizer.")}
        for name in sorted(mine - theirs):
            raise RunError(f"the checkpoint lacks {name!r}; {suggest(name, theirs)}")
        for name in sorted(theirs - mine):
            raise RunError(f"the checkpoint's {name!r} has no place here; {suggest(name, mine)}")
        known = {k: v.shape for k, v in self.state_dict().items() if isinstance(v, Tensor)}
        for index, weight in enumerate(self._trained()):
            moments = {f"optimizer.{index}.{k}": weight.shape for k in ("exp_avg", "exp_avg_sq")}
            known |= {f"optimizer.{index}.step": torch.Size(), **moments}
        for name, value in state.items():
            if isinstance(value, Tensor) and known.get(name) != value.shape:
                here = list(known[name]) if name in known else "no place"
                raise RunError(
                    f"the checkpoint's {name!r} has shape {list(value.shape)}, here it has {here}: "
                    "it belongs to another network"
                )

    def _trained(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]


@torch.no_grad()
def follow(target: nn.Module, net: nn.Module, *, fraction: float) -> None:
    """Moves every parameter of `target` by `fraction` of the way to `net`'s; buffers are copied."""
    pairs = zip(target.parameters(), net.parameters(), strict=True)
    for old, new in pairs:
        old.copy_(new) if fraction == 1 else old.lerp_(new, fraction)
    for old, new in zip(target.buffers(), net.buffers(), strict=True):
        old.copy_(new)


def across_ranks(value: Tensor, *, mean: bool = True) -> Tensor:
    """The mean or the sum over all processes of a distributed run; itself in a single one."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    value = value.clone()
    dist.all_reduce(value)
    return value / dist.get_world_size() if mean else value


def means_across_ranks(values: Iterable[Tensor]) -> Iterable[Tensor]:
    """`across_ranks` of several scalars in one message."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return values
    return across_ranks(torch.stack(list(values))).unbind()


def _whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def _laid_out(value: Tensor, like: Tensor) -> Tensor:
    """A copy of the whole `value` with the strides, or the spread over ranks, that `like` has.

    The fused Adam kernel walks weights and moments side by side in memory: unequal strides would
    pair each weight with another one's moments.
    """
    if isinstance(like, DTensor):
        whole = value.to(like.device, like.dtype)
        return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)
    return torch.empty_like(like).copy_(value)


def _load(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    mine = module.state_dict()
    spread = {k: v for k, v in mine.items() if isinstance(v, DTensor) and k in tensors}
    laid_out = {k: _laid_out(tensors[k], like) for k, like in spread.items()}
    module.load_state_dict({**tensors, **laid_out})


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
