"""From configs to objects: the only place where a config's class picks another class."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from scaledq.core.errors import ConfigError, TaskError
from scaledq.core.outputs import HeadSpec
from scaledq.core.seeds import stream
from scaledq.core.task import Task
from scaledq.core.vocabulary import vocabulary
from scaledq.data.loader import Loader
from scaledq.data.ring import Ring
from scaledq.data.store import open_store
from scaledq.learn.cpc import CPC
from scaledq.learn.learner import Learner
from scaledq.learn.mae import MAE
from scaledq.learn.objective import Objective, Pretraining, ScaledQL
from scaledq.learn.sequence import DecisionTransformer, SequenceCloning
from scaledq.nets.blocks import Coloured
from scaledq.nets.contrastive import Contrastive
from scaledq.nets.decoder import Decoder
from scaledq.nets.head import ENCODER, HEADS, NeckConfig, Network
from scaledq.nets.impala import Impala, ImpalaConfig
from scaledq.nets.mae import MaskedAutoencoder
from scaledq.nets.mlp import MLP, MLPConfig
from scaledq.nets.nature import Nature, NatureConfig
from scaledq.nets.resnet import ResNet, ResNetConfig
from scaledq.nets.transformer import Transformer, TransformerConfig
from scaledq.nets.vit import ViT, ViTConfig
from scaledq.play.policy import NetPolicy, Selection
from scaledq.play.sequence import SequencePolicy
from scaledq.run.compute import prepared
from scaledq.run.config import Encoder, RunConfig
from scaledq.run.dqn import DQNConfig
from scaledq.run.parallel import Ranks
from scaledq.run.pqn import PQN, PQNConfig
from scaledq.run.prior import Prior
from scaledq.run.recording import METRICS, Agent
from scaledq.run.replay import ReplayAgent, Rhythm
from scaledq.run.trackers import MLflow, WandB
from scaledq.run.tracking import Tracking


def encoder(cfg: Encoder, shape: tuple[int, ...]) -> nn.Module:
    """The encoder of observations of `shape` [S *frame]; pictures may be in colour, [H W C]."""
    if len(shape) == 4 and not isinstance(cfg, MLPConfig):
        frames, height, width, colours = shape
        return Coloured(encoder(cfg, (frames * colours, height, width)))
    match cfg:
        case ResNetConfig():
            return ResNet(cfg, shape)
        case ImpalaConfig():
            return Impala(cfg, shape)
        case NatureConfig():
            return Nature(cfg, shape)
        case MLPConfig():
            return MLP(cfg, shape)
        case TransformerConfig():
            raise ConfigError("encoder: a transformer reads windows; take recipe dt")
        case ViTConfig():
            return ViT(cfg, shape)


def network(cfg: RunConfig, tasks: tuple[Task, ...]) -> nn.Module:
    """The run's network, initialised from its seed; the global random state is left as it was.

    Raises:
      TaskError: tasks of unequal frames.
      ConfigError: an encoder that the objective, the neck or the frames do not go with.
    """
    frames = {(task.frame_shape, task.frame_dtype): task.name for task in tasks}
    if len(frames) > 1:
        (one, a), (other, b) = list(frames.items())[:2]
        raise TaskError(f"one run, one frame shape: {a} has {one}, {b} has {other}")
    if isinstance(cfg.encoder, TransformerConfig):
        return transformer(cfg, cfg.encoder, tasks)
    if isinstance(cfg.objective, Pretraining):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(cfg.seed)
            shape = (cfg.transitions.stack, *tasks[0].frame_shape)
            return _pretraining(cfg, cfg.objective, shape)
    return untrained(
        cfg.encoder,
        cfg.neck,
        tasks,
        stack=cfg.transitions.stack,
        heads=cfg.objective.heads,
        seed=cfg.seed,
    )


def untrained(
    body: Encoder,
    neck: NeckConfig,
    tasks: tuple[Task, ...],
    *,
    stack: int,
    heads: tuple[HeadSpec, ...],
    seed: int,
) -> Network:
    """A network as that seed starts it; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = encoder(body, (stack, *tasks[0].frame_shape))
        return Network(layers, neck, tasks=tuple(task.actions for task in tasks), heads=heads)


def transformer(cfg: RunConfig, body: TransformerConfig, tasks: tuple[Task, ...]) -> Transformer:
    """As `network`, for a run that learns from windows."""
    objective = cfg.objective
    assert isinstance(objective, DecisionTransformer | SequenceCloning), "checked by RunConfig"
    stack = cfg.transitions.stack if body.resnet else 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        return Transformer(
            body,
            tasks[0].frame_shape,
            context=cfg.sequences.context,
            vocabulary=vocabulary(tasks),
            returns=objective.returns,
            encoder=encoder(body.resnet, (stack, *tasks[0].frame_shape)) if body.resnet else None,
            stack=stack,
        )


def _pretraining(cfg: RunConfig, objective: Pretraining, shape: tuple[int, ...]) -> nn.Module:
    """What pre-trains the run's encoder of observations of `shape`."""
    body = encoder(cfg.encoder, shape)
    match objective:
        case CPC() as cpc:
            return Contrastive(body, cfg.neck, width=cpc.width, layers=cpc.layers)
        case MAE() as mae if isinstance(body, ViT):
            return MaskedAutoencoder(
                body,
                mask=mae.mask,
                width=mae.decoder_width,
                depth=mae.decoder_depth,
                heads=mae.decoder_heads,
            )
    raise ConfigError(
        f"objective.kind {objective.kind!r} hides patches: encoder.kind must be 'vit', got "
        f"{cfg.encoder.kind!r}"
    )


def learner(
    cfg: RunConfig,
    tasks: tuple[Task, ...],
    *,
    device: str,
    net: nn.Module | None = None,
    ranks: Ranks | None = None,
) -> Learner:
    """The run's learner at step 0, or one rank's part in it.

    Args:
      net: a network that was prepared for it; the run's own by default.
    """
    ranks = ranks or Ranks(device)
    net = prepared(net or network(cfg, tasks), cfg.compute, device=device)
    target = copy.deepcopy(net)
    if cfg.compute.shard:
        ranks.spread(net)
        ranks.spread(target)
    return Learner(
        net,
        cfg.objective,
        cfg.optim,
        tasks=len(tasks),
        forward=net if cfg.compute.shard else ranks.wrapped(net),
        target=target,
        share=ranks.share(cfg.batch_size),
        compiled=cfg.compute.compile,
    )


def loader(cfg: RunConfig, ranks: Ranks | None = None) -> Loader:
    """The run's batches, or one rank's part of them, from the stores that its config names."""
    ranks = ranks or Ranks("cpu")
    return Loader(
        [open_store(path) for path in cfg.stores],
        cfg.tasks,
        view=cfg.view,
        transitions=cfg.sequences if cfg.sequential else cfg.transitions,
        batch_size=cfg.batch_size,
        seed=cfg.seed,
        returns=_asks_returns(cfg.objective),
        rank=ranks.rank,
        world=ranks.world,
        pinned=ranks.device.startswith("cuda"),
    )


def prior(cfg: RunConfig) -> Prior | None:
    """The part of an online run's batches that comes from logs, if it has one."""
    if not cfg.prior_rows:
        return None
    loader = Loader(
        [open_store(path) for path in cfg.stores],
        cfg.logged,
        view=cfg.view,
        transitions=cfg.transitions,
        batch_size=cfg.prior_rows,
        # Not the ring's: equal numbers would draw the same places of logs and ring.
        seed=int(stream(cfg.seed, "prior").integers(1 << 62)),
        returns=_asks_returns(cfg.objective),
    )
    return Prior(loader, cfg.known_tasks, rows=cfg.prior_rows, stop=cfg.steps)


def _asks_returns(objective: Objective) -> bool:
    """Whether its batches must hold Monte-Carlo returns."""
    return isinstance(objective, ScaledQL) and objective.calibrated


def pqn(cfg: PQNConfig, tasks: tuple[Task, ...], task_index: np.ndarray, *, seed: int) -> PQN:
    """The agent before its first step.

    Args:
      task_index: int64 [R], the task of each row that it plays.
    """
    net = untrained(cfg.encoder, cfg.neck, tasks, stack=cfg.stack, heads=cfg.heads, seed=seed)
    net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return PQN(cfg, net.to(device()), task_index, seed=seed)


def dqn(  # noqa: PLR0913  (the agent's own, and what a run gives it)
    cfg: DQNConfig,
    tasks: tuple[Task, ...],
    task_index: np.ndarray,
    *,
    seed: int,
    steps: int,
    learner: Learner | None = None,
    stop_after: int | None = None,
    prior: Prior | None = None,
    known: tuple[Task, ...] = (),
) -> ReplayAgent:
    """The agent before its first step; arguments as of `pqn`.

    Args:
      steps: transitions of each task that it is to play: no ring need hold more than those.
      learner: one that was prepared for it, over these tasks first; its own by default.
      stop_after: updates after which it only plays.
      prior: what a part of each batch comes from; the ring alone by default.
      known: the tasks of the learner's network; those that it plays by default.

    Raises:
      ConfigError: a ring that has no room for a sample.
    """
    if learner is None:
        net = untrained(
            cfg.encoder, cfg.neck, tasks, stack=cfg.stack, heads=cfg.objective.heads, seed=seed
        )
        net = prepared(net, cfg.compute, device=device())
        compiled = cfg.compute.compile
        learner = Learner(net, cfg.objective, cfg.optim, tasks=len(tasks), compiled=compiled)
    slots = len(task_index) // len(tasks)
    # At most every second row closes an episode; and a sample must have room in any case.
    enough = 2 * steps + slots * (cfg.stack + cfg.transitions.n_step + 4)
    ring = Ring(
        replace(cfg.replay.ring, capacity=min(cfg.replay.ring.capacity, enough)),
        tasks,
        slots=slots,
        transitions=cfg.transitions,
        batch_size=cfg.batch_size - (prior.rows if prior else 0),
        seed=seed,
        returns=_asks_returns(cfg.objective),
    )
    rhythm = Rhythm(
        log_every=cfg.log_every, checkpoint_every=cfg.checkpoint_every, stop_after=stop_after
    )
    return ReplayAgent(
        learner,
        ring,
        cfg.replay,
        task_index,
        rhythm=rhythm,
        seed=seed,
        prior=prior,
        renewed=lambda number: _renewed(cfg, known or tasks, seed, number),
    )


def _renewed(
    cfg: DQNConfig, tasks: tuple[Task, ...], seed: int, number: int
) -> dict[str, torch.Tensor]:
    """The weights that a reset makes anew, as another network has them at its start."""
    net = untrained(
        cfg.encoder,
        cfg.neck,
        tasks,
        stack=cfg.stack,
        heads=cfg.objective.heads,
        seed=int(stream(seed, "reset", number).integers(1 << 62)),
    )
    every = dict(net.named_parameters())
    if cfg.replay.reset == "heads":
        return {name: value for name, value in every.items() if name.startswith(HEADS)}
    return {name: value for name, value in every.items() if not name.startswith(ENCODER)}


def agent(
    cfg: PQNConfig | DQNConfig,
    tasks: tuple[Task, ...],
    task_index: np.ndarray,
    *,
    seed: int,
    steps: int,
) -> Agent:
    """A behaviour that learns, before its first step; arguments as of `dqn`."""
    match cfg:
        case PQNConfig():
            return pqn(cfg, tasks, task_index, seed=seed)
        case DQNConfig():
            return dqn(cfg, tasks, task_index, seed=seed, steps=steps)


def policy(
    cfg: RunConfig,
    net: nn.Module,
    *,
    selection: Selection | None,
    device: str,
    frame: Task | None = None,
    keep: int | None = None,
) -> NetPolicy | SequencePolicy:
    """The run's network as a policy over its tasks, whose frames are all like that task's.

    Args:
      selection: the run's own by default.
      keep: as `SequencePolicy` says.

    Raises:
      ConfigError: a selection that the run's objective does not know, or a `keep` that its windows
        do not allow.
      RunError: the run trained an encoder only.
    """
    selection = selection or cfg.selection
    kappa = cfg.objective.kappa if isinstance(cfg.objective, DecisionTransformer) else None
    if selection == "notebook" and kappa is None:
        raise ConfigError(
            f"selection 'notebook' is about returns, which {cfg.objective.kind!r} does not foresee;"
            " take greedy or sampled"
        )
    if isinstance(net, Transformer):
        return SequencePolicy(
            lambda rows: Decoder(net, rows),
            cfg.known_tasks,
            context=cfg.sequences.context,
            kappa=kappa,
            selection=selection,
            keep=keep,
        )
    if keep is not None:
        raise ConfigError(
            f"keep: {cfg.method} remembers no window of steps; only transformers do; leave it out"
        )
    return NetPolicy(
        net,
        cfg.playing.preferences,
        cfg.known_tasks,
        stack=cfg.transitions.stack,
        device=device,
        selection=selection,
        frame=frame,
    )


def device() -> str:
    """Where this machine computes: its first GPU, or the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def tracking(cfg: RunConfig, folder: Path) -> Tracking:
    """What follows the run in `folder` while it is entered; nobody unless `cfg.track` says so.

    Raises:
      ConfigError: a tracker's library is not installed.
    """
    trackers = []
    for name in cfg.track:
        match name:
            case "wandb":
                trackers.append(WandB(cfg, folder))
            case "mlflow":
                trackers.append(MLflow(cfg, folder))
    return Tracking(trackers, folder / METRICS)
