"""What a run minimises. An objective is a config that can be called; there is nothing to build.

Every objective has `heads` (what the network must answer), `td` (its TD error, or None),
`bootstraps` (whether it needs a target network), `preferences(outputs) -> [B A]` and
`objective(net, target_net, batch) -> (loss [B], {term: [B]})`. Shapes: B batch, A actions.
"""

from dataclasses import replace
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from scaledq.core.batch import Batch
from scaledq.core.config import by_kind, config
from scaledq.core.errors import ConfigError
from scaledq.core.outputs import HeadSpec, Network, Outputs
from scaledq.learn.bc import BehaviourCloning, Loss
from scaledq.learn.bcq import DiscreteBCQ
from scaledq.learn.c51 import C51
from scaledq.learn.cpc import CPC
from scaledq.learn.cql import calibrated_gap, gap, masked, of_action
from scaledq.learn.dr3 import coadaptation
from scaledq.learn.iql import IQL
from scaledq.learn.mae import MAE
from scaledq.learn.sequence import DecisionTransformer, SequenceCloning
from scaledq.learn.td import MSE, TDError


@config
class ScaledQL:
    """A TD error plus alpha times the conservative gap; with C51, the paper's own objective."""

    kind: Literal["scaled_ql"] = "scaled_ql"
    td: Annotated[TDError, by_kind] = C51()
    alpha: float = 0.05
    """Weight of the CQL gap (eq. 1); 0 turns conservatism off (appendix B.4)."""
    alpha_last: float = 0.0
    """What the weight has come to, in a straight line, after `alpha_steps` updates."""
    alpha_steps: int = 0
    """0: the weight stays `alpha`."""
    calibrated: bool = False
    """Push no value below the return that followed in the data (Cal-QL, Nakamoto et al., 2023).
    Where its episode has not ended yet, a transition's conservative term is left out."""
    double: bool = False
    """Let the online network choose the next action whose value the target network tells."""
    dr3: float = 0.0
    """Weight of the explicit DR3 regulariser; costs a second pass with gradients."""

    def __post_init__(self) -> None:
        if self.alpha_steps < 0:
            raise ConfigError(f"objective.alpha_steps must be 0 or more, got {self.alpha_steps}")
        for field in ("alpha", "alpha_last", "dr3"):
            if not 0 <= getattr(self, field) < float("inf"):
                raise ConfigError(
                    f"objective.{field} must be 0 or more, got {getattr(self, field)}"
                )

    @property
    def bootstraps(self) -> bool:
        """A target network is held."""
        return True

    @property
    def heads(self) -> tuple[HeadSpec, ...]:
        """The TD error's outputs for each action."""
        return (HeadSpec(name="q", size=self.td.size),)

    def preferences(self, outputs: Outputs) -> Float[Tensor, "B A"]:
        """Q; -inf for actions that the task lacks."""
        return masked(self.td.q(outputs["q"]), outputs["available"])

    def at(self, step: int) -> "ScaledQL":
        """The objective of the step-th update, counted from 0: its weight does not move."""
        if not self.alpha_steps:
            return self
        done = min(1.0, step / self.alpha_steps)
        alpha = (1 - done) * self.alpha + done * self.alpha_last
        return replace(self, alpha=alpha, alpha_last=0.0, alpha_steps=0)

    def __call__(self, net: Network, target_net: Network, batch: Batch) -> Loss:
        with torch.set_grad_enabled(self.dr3 > 0 and torch.is_grad_enabled()):
            ahead = net(batch.next_obs, batch.task) if self.double or self.dr3 else None
        with torch.no_grad():
            target = self._target(target_net(batch.next_obs, batch.task), ahead, batch)
        outputs = net(batch.obs, batch.task)  # last: what backward needs is held no longer
        td = self.td.loss(of_action(outputs["q"], batch.action), target)
        conservative = self._conservative(outputs, batch)
        loss = td + self.alpha * conservative
        terms = {"td": td.detach(), "cql_gap": conservative.detach()}
        if self.dr3 and ahead is not None:
            alike = coadaptation(outputs["features"], ahead["features"])
            loss, terms["dr3"] = loss + self.dr3 * alike, alike.detach()
        return loss, terms

    def _conservative(self, outputs: Outputs, batch: Batch) -> Tensor:
        q, available = self.td.q(outputs["q"]), outputs["available"]
        if not self.calibrated:
            return gap(q, batch.action, available)
        if batch.returns is None:
            raise ConfigError(
                "objective.calibrated needs Monte-Carlo returns in its batches, got none: give the "
                "Loader or Ring returns=True"
            )
        return calibrated_gap(q, batch.action, available, batch.returns)

    def _target(self, next_outputs: Outputs, ahead: Outputs | None, batch: Batch) -> Tensor:
        chooser = ahead if self.double and ahead is not None else next_outputs
        best = self.preferences(chooser).argmax(-1)
        return self.td.target(of_action(next_outputs["q"], best), batch.reward, batch.discount)


@config
class ReturnRegression:
    """Q of the taken action fitted to a return that is already known: `batch.reward` as it stands.

    For targets made by `learn.returns`; `batch.discount` and `batch.next_obs` are not looked at.
    """

    kind: Literal["regression"] = "regression"
    td: Annotated[TDError, by_kind] = MSE(unitary=False)

    @property
    def bootstraps(self) -> bool:
        """No target network is held."""
        return False

    @property
    def heads(self) -> tuple[HeadSpec, ...]:
        """The TD error's outputs for each action."""
        return (HeadSpec(name="q", size=self.td.size),)

    def preferences(self, outputs: Outputs) -> Float[Tensor, "B A"]:
        """Q; -inf for actions that the task lacks."""
        return masked(self.td.q(outputs["q"]), outputs["available"])

    def __call__(self, net: Network, target_net: Network, batch: Batch) -> Loss:
        outputs = net(batch.obs, batch.task)
        target = self.td.target_at(batch.reward)
        td = self.td.loss(of_action(outputs["q"], batch.action), target)
        return td, {"td": td.detach()}


Playing = (
    ScaledQL
    | BehaviourCloning
    | DiscreteBCQ
    | IQL
    | ReturnRegression
    | DecisionTransformer
    | SequenceCloning
)
"""Objectives that teach a policy."""
Pretraining = MAE | CPC
"""Objectives of an encoder alone: they have no `preferences`, and their runs cannot play."""
Objective = Playing | Pretraining
