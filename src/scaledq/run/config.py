"""The whole of one training run, as data."""

from dataclasses import replace
from typing import Annotated, Literal

from scaledq.core.config import by_kind, config, fingerprint
from scaledq.core.errors import ConfigError, RunError
from scaledq.core.protocol import DQN_REPLAY, SCALED_QL, Protocol
from scaledq.core.seeds import check_seed
from scaledq.data.loader import Transitions
from scaledq.data.sequences import Sequences
from scaledq.data.view import View
from scaledq.learn.objective import Objective, Playing, Pretraining, ScaledQL
from scaledq.learn.optim import OptimConfig
from scaledq.learn.sequence import DecisionTransformer, SequenceCloning
from scaledq.nets.head import NeckConfig
from scaledq.nets.impala import ImpalaConfig
from scaledq.nets.mlp import MLPConfig
from scaledq.nets.nature import NatureConfig
from scaledq.nets.resnet import ResNetConfig
from scaledq.nets.transformer import TransformerConfig
from scaledq.nets.vit import ViTConfig
from scaledq.run.compute import Compute
from scaledq.run.replay import Replay

Encoder = ResNetConfig | ImpalaConfig | NatureConfig | MLPConfig | TransformerConfig | ViTConfig
"""A transformer is the whole network, and reads windows of steps: there is no neck behind it."""


@config
class Start:
    """The weights that a run begins with: random ones, or another run's (section 5.2, figure 1)."""

    run: str = ""
    """Folder of a finished run. Not part of this run's name: moving it makes no other run."""
    weights: str = ""
    """SHA-256 of that run's weights file. `train` notes it: this is what names the source."""
    of: str = ""
    """The kind of objective that the source must have had, such as `mae`; any by default."""
    parts: Literal["encoder", "body", "all"] = "encoder"
    """encoder: everything after it is made anew (a transformer is all encoder). body: all but the
    heads. all: also the heads of the tasks that both runs have."""
    frozen: bool = False
    """What was taken over stays as it is, but for heads; otherwise it learns on."""
    thaw: int = 0
    """Updates after which it learns on all the same: what is new has then learnt to use it. 0:
    never."""
    keep: tuple[str, ...] = ()
    """Tasks of the source that this run can go on playing though it has no data of them."""
    head: str = ""
    """Task of the source whose head this run's tasks begin with where they are new: a variant's
    game. It must have as many actions."""

    def __post_init__(self) -> None:
        if self.thaw < 0 or (self.thaw and not self.frozen):
            raise ConfigError(f"start.thaw is for frozen starts, and 0 or more; got {self.thaw}")
        if self.keep and self.parts != "all":
            raise ConfigError(f"start.keep needs start.parts 'all', got {self.parts!r}")
        if self.head and self.parts != "all":
            raise ConfigError(f"start.head needs start.parts 'all', got {self.parts!r}")
        if len(set(self.keep)) < len(self.keep):
            raise ConfigError(f"start.keep: each task once, got {self.keep}")


@config
class PriorData:
    """Logs that an online run learns from beside what it does (RLPD, Ball et al., 2023)."""

    share: float = 0.5
    """Of each batch, to the nearest row."""
    tasks: tuple[str, ...] = ()
    """Whose logs, in equal parts unless the view says otherwise; by default those of the tasks that
    it plays. Others have heads of their own."""

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ConfigError(f"online.prior.share must lie in (0, 1), got {self.share}")
        if len(set(self.tasks)) < len(self.tasks):
            raise ConfigError(f"online.prior.tasks: each task once, got {self.tasks}")


@config
class Online:
    """Of a run that makes its data by playing: how it plays, and what it remembers of it.

    Its logs are recorded in its own folder.
    """

    replay: Replay = Replay()
    slots: int = 8
    """Environments of each task."""
    protocol: Protocol = DQN_REPLAY
    """How it plays while it learns; the epsilon is the replay's."""
    prior: PriorData | None = None
    """None: every batch is what it did itself. Otherwise logs come into it, from `stores`."""

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise ConfigError(f"online.slots: need at least 1, got {self.slots}")


@config
class RunConfig:
    """The defaults are the paper's: ResNet-101, C51 with CQL, batch 512, 10 M steps."""

    tasks: tuple[str, ...]
    stores: tuple[str, ...] = ()
    """Where the logs lie. Not part of the run's name: moving data does not make another run."""
    objective: Annotated[Objective, by_kind] = ScaledQL()
    encoder: Annotated[Encoder, by_kind] = ResNetConfig(depth=101)
    neck: NeckConfig = NeckConfig()
    optim: OptimConfig = OptimConfig()
    view: View = View()
    transitions: Transitions = Transitions()
    batch_size: int = 512
    """Global: split over ranks, never multiplied by them."""
    steps: int = 10_000_000
    seed: int = 0
    protocol: Protocol = SCALED_QL
    """How this run's policy is meant to be played and scored."""
    log_every: int = 100
    checkpoint_every: int = 2_000
    checkpoints: int = 2
    """How many of the newest are kept."""
    start: Start = Start()
    compute: Compute = Compute()
    """How the device computes a step; it changes last bits, and therefore the run's name."""
    sequences: Sequences = Sequences()
    """What transformers learn from instead of `transitions`."""
    online: Online | None = None
    """None: it learns from logs. Otherwise from what it does itself, and `stores` stays empty but
    for prior data."""
    track: tuple[Literal["wandb", "mlflow"], ...] = ()
    """Who else is told what metrics.jsonl is told. Not part of the run's name."""

    def __post_init__(self) -> None:
        self._check_names()
        check_seed(self.seed)
        for field in ("batch_size", "steps", "log_every", "checkpoint_every", "checkpoints"):
            if getattr(self, field) < 1:
                raise ConfigError(f"{field}: need at least 1, got {getattr(self, field)}")
        if self.sequential != isinstance(self.encoder, TransformerConfig):
            raise ConfigError(
                f"objective {self.objective.kind!r} and encoder {self.encoder.kind!r} do not fit: "
                "dt and bc_transformer learn with encoder 'transformer', and only they do"
            )
        if isinstance(self.objective, DecisionTransformer) and not self.sequences.returns:
            raise ConfigError("objective 'dt' needs returns to go: leave sequences.returns true")
        self._check_online()

    def _check_names(self) -> None:
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ConfigError(f"tasks: need at least one and each once, got {self.tasks}")
        if len(set(self.track)) < len(self.track):
            raise ConfigError(f"track: each tracker once, got {' '.join(self.track)}")
        for task in self.start.keep:
            if task in self.tasks + self.logged:
                raise ConfigError(f"start.keep: {task} is among the tasks that this run learns")

    def _check_online(self) -> None:
        if self.online and not self.objective.bootstraps:
            raise ConfigError(f"online: there is nobody for {self.objective.kind} to learn from")
        if not self.online:
            return
        if self.view != View() and not self.online.prior:
            raise ConfigError("online: a view chooses from logs, and this run has none; leave it")
        replay, start = self.online.replay, self.start
        taken = start.frozen and start.parts != "encoder" and replay.reset == "neck"
        if replay.reset_every and (start.keep or taken):
            raise ConfigError(
                "online.replay.reset_every: a reset would undo what start.keep or start.frozen "
                "preserves; drop one of them"
            )
        if self.online.prior and not 0 < self.prior_rows < self.batch_size:
            raise ConfigError(
                f"online.prior.share: {self.online.prior.share} of a batch of {self.batch_size} is "
                f"{self.prior_rows} rows; at least one must come from logs and one from play"
            )

    @property
    def sequential(self) -> bool:
        """Whether the run learns from windows of steps rather than from transitions."""
        return isinstance(self.objective, DecisionTransformer | SequenceCloning)

    @property
    def selection(self) -> Literal["greedy", "sampled"]:
        """How the run's policy chooses unless asked otherwise: transformers as their authors did,
        who drew actions; all others the best."""
        return "sampled" if self.sequential else "greedy"

    @property
    def known_tasks(self) -> tuple[str, ...]:
        """The tasks that the run can play: its own, then others that it learns from logs, then
        those that it kept."""
        others = tuple(task for task in self.logged if task not in self.tasks)
        return self.tasks + others + self.start.keep

    @property
    def logged(self) -> tuple[str, ...]:
        """The tasks that the run needs logs of."""
        if self.online is None:
            return self.tasks
        return (self.online.prior.tasks or self.tasks) if self.online.prior else ()

    @property
    def played(self) -> int:
        """Transitions of all tasks together that an online run plays for its updates."""
        if self.online is None:
            return 0
        replay, tasks = self.online.replay, len(self.tasks)
        return tasks * (replay.warmup + max(1, -(-self.steps * replay.train_every // tasks)))

    @property
    def prior_rows(self) -> int:
        """Rows of an online run's batch that come from logs."""
        prior = self.online.prior if self.online else None
        return round(prior.share * self.batch_size) if prior else 0

    @property
    def playing(self) -> Playing:
        """The objective of a run that learns a policy.

        Raises:
          RunError: the run trains an encoder only.
        """
        if isinstance(self.objective, Pretraining):
            kind = self.objective.kind
            raise RunError(
                f"a run of {kind!r} has trained an encoder and cannot play; train a policy on it: "
                f"`scaledq train scaled_ql_on_{kind} --start.run RUN --store DIR`"
            )
        return self.objective

    @property
    def method(self) -> str:
        """How it learnt, in a word: what its scores are filed under."""
        if self.online is None:
            return self.objective.kind
        return f"online_{self.objective.td.kind if self.objective.td else self.objective.kind}"

    @property
    def placeless(self) -> "RunConfig":
        """The config without the places of its data and its source, and without who is told."""
        return replace(self, stores=(), track=(), start=replace(self.start, run=""))

    @property
    def slug(self) -> str:
        """Readable half of the run's directory name; the fingerprint is the other half."""
        tasks = self.tasks[0] if len(self.tasks) == 1 else f"{len(self.tasks)}tasks"
        return f"{self.method}-{tasks.replace(':', '-')}-seed{self.seed}"

    @property
    def folder(self) -> str:
        """The name of the run's folder: equal configs are one run, wherever their data lies."""
        return f"{self.slug}-{fingerprint(self.placeless)}"
