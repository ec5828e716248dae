"""The recipes that learn from what they do themselves: figures 2, 4, 8, and remedies beyond them.

They are RunConfigs with a field `online`; at small scales a batch or a target period that is larger
than the scale's own becomes the scale's own.
"""

from dataclasses import replace

from scaledq.learn.c51 import C51
from scaledq.learn.objective import ScaledQL
from scaledq.learn.optim import OptimConfig
from scaledq.learn.td import MSE, TDError
from scaledq.nets.head import NeckConfig
from scaledq.run.config import Encoder, PriorData, RunConfig, Start
from scaledq.study.spec import Scale

FRAMES = 3_000_000
"""Of online fine-tuning (section 5.2)."""


def online_c51(scale: Scale) -> RunConfig:
    """Online C51 with IMPALA on all tasks, the baseline of figures 2 and 4 (Lee et al., 2022)."""
    run = _online(scale, C51(), batch_size=128, n_step=4, target_every=256, lr=2.5e-4)
    return _plain(run, scale.encoders.online)


def online_c51_resnet(scale: Scale) -> RunConfig:
    """Online C51 with Scaled QL's own network in place of IMPALA."""
    run = _online(scale, C51(), batch_size=128, n_step=4, target_every=256, lr=2.5e-4)
    return replace(run, encoder=scale.run.encoder, neck=scale.run.neck)


def online_dqn(scale: Scale) -> RunConfig:
    """Online DQN with the Nature network (figure 8's single-game baseline)."""
    td = MSE(unitary=False, huber=1.0)
    run = _online(scale, td, batch_size=32, n_step=1, target_every=2_000, lr=6.25e-5)
    return _plain(replace(run, optim=replace(run.optim, eps=1.5e-4)), scale.encoders.nature)


def finetune_online(scale: Scale) -> RunConfig:
    """Scaled QL that learns from its own play, at best with --start.run RUN (figure 8)."""
    run = scale.run
    steps = min(run.steps, FRAMES // scale.online.protocol.frame_skip // 4)
    return replace(run, view=RunConfig(tasks=run.tasks).view, online=scale.online, steps=steps)


def finetune_online_on_mae(scale: Scale) -> RunConfig:
    """The same on the frozen encoder of a `mae` run: --start.run RUN (figure 8)."""
    run = finetune_online(scale)
    return replace(run, encoder=scale.encoders.vit, start=Start(of="mae", frozen=True))


def finetune_online_thawed(scale: Scale) -> RunConfig:
    """Online, on an encoder that rests for the first fifth: --start.run RUN (beyond section 6)."""
    run = finetune_online(scale)
    return replace(run, start=Start(frozen=True, thaw=max(1, run.steps // 5)))


def finetune_online_annealed(scale: Scale) -> RunConfig:
    """Online, with a conservative weight that falls from ten times its size to 0 by half-time."""
    run = finetune_online(scale)
    assert isinstance(run.objective, ScaledQL)
    objective = replace(
        run.objective, alpha=10 * run.objective.alpha, alpha_steps=max(1, run.steps // 2)
    )
    return replace(run, objective=objective)


def finetune_online_calibrated(scale: Scale) -> RunConfig:
    """Online, and no value is pushed below the return that followed (Cal-QL)."""
    run = finetune_online(scale)
    assert isinstance(run.objective, ScaledQL)
    return replace(run, objective=replace(run.objective, calibrated=True))


def finetune_online_mixed(scale: Scale) -> RunConfig:
    """Online, half of each batch from logs, no pessimism (RLPD; Ball et al., 2023): --store DIR."""
    run = _unafraid(finetune_online(scale))
    return replace(run, online=replace(scale.online, prior=PriorData()))


def finetune_online_warmed(scale: Scale) -> RunConfig:
    """Online; the pre-trained policy fills the ring, then no pessimism (WSRL): --start.run RUN."""
    run = _unafraid(finetune_online(scale))
    replay = replace(scale.online.replay, explore=0.0)
    return replace(run, online=replace(scale.online, replay=replay), start=Start(parts="all"))


def finetune_online_reset(scale: Scale) -> RunConfig:
    """Online, and the head begins anew at half-time (Nikishin et al., 2022)."""
    run = finetune_online(scale)
    replay = replace(scale.online.replay, reset_every=max(1, run.steps // 2))
    return replace(run, online=replace(scale.online, replay=replay))


def _unafraid(run: RunConfig) -> RunConfig:
    """Without the conservative term."""
    assert isinstance(run.objective, ScaledQL)
    return replace(run, objective=replace(run.objective, alpha=0.0))


def _online(
    scale: Scale, td: TDError, *, batch_size: int, n_step: int, target_every: int, lr: float
) -> RunConfig:
    run = scale.run
    return replace(
        run,
        view=RunConfig(tasks=run.tasks).view,  # it sees all that it does
        objective=ScaledQL(td=td, alpha=0.0),
        optim=OptimConfig(lr=lr, target_every=min(target_every, run.optim.target_every)),
        transitions=replace(run.transitions, n_step=n_step),
        batch_size=min(batch_size, run.batch_size),
        online=scale.online,
    )


def _plain(run: RunConfig, encoder: Encoder) -> RunConfig:
    """Flattened maps, one layer, no norm of the features."""
    neck = NeckConfig(embedding="none", width=run.neck.width, unit_norm=False)
    return replace(run, encoder=encoder, neck=neck)
