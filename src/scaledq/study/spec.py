"""Experiments as data: a scale is how much to spend, a recipe is one way to train, a study asks.

A study is a question, the arms that are compared to answer it, what the paper printed about each
of them, and the paper's claims. No study says how large anything is: that is the scale's.
"""

from collections.abc import Callable
from typing import Literal

from scaledq.core.atari import with_role
from scaledq.core.config import config
from scaledq.core.errors import ConfigError
from scaledq.data.sequences import Sequences
from scaledq.data.view import First, Uniform, View
from scaledq.learn.mae import MAE
from scaledq.learn.optim import OptimConfig
from scaledq.nets.impala import ImpalaConfig
from scaledq.nets.nature import NatureConfig
from scaledq.nets.resnet import ResNetConfig
from scaledq.nets.transformer import TransformerConfig
from scaledq.nets.vit import ViTConfig
from scaledq.play.policy import Selection
from scaledq.run.config import Encoder, Online, RunConfig


@config
class Sizes:
    """A family of encoders of four sizes."""

    small: Encoder
    medium: Encoder
    large: Encoder
    huge: Encoder


RESNETS = Sizes(
    small=ResNetConfig(depth=34),
    medium=ResNetConfig(depth=50),
    large=ResNetConfig(depth=101),
    huge=ResNetConfig(depth=152),
)
"""The paper's family (section 5.1). Its main results have the large one."""
IMPALAS = Sizes(
    small=ImpalaConfig(channels=(128,) * 5),
    medium=ImpalaConfig(channels=(256,) * 10),
    large=ImpalaConfig(channels=(512,) * 5),
    huge=ImpalaConfig(channels=(512,) * 10),
)
"""The family of the CQL baseline of Lee et al. (2022), which figure 6 quotes."""


@config
class Encoders:
    """Every encoder that recipes compare, at one scale; the defaults are the published ones."""

    resnets: Sizes = RESNETS
    """What ResNet-34, 50, 101 and 152 are at this scale; `large` is the run's own."""
    impalas: Sizes = IMPALAS
    standardised: ResNetConfig = ResNetConfig(depth=101, weight_standardised=True)
    """The large ResNet in BiT's layout: more groups, standardised weights."""
    nature: NatureConfig = NatureConfig()
    vit: ViTConfig = ViTConfig()
    """What masked autoencoding pre-trains (section 5.2): ViT-Base."""
    online: Encoder = ImpalaConfig(channels=(64, 128, 128))
    """Of the online multi-task agent (Lee et al., 2022)."""


@config
class Transformers:
    """How sequence models are trained at one scale; the defaults are those of Lee et al. (2022)."""

    small: TransformerConfig = TransformerConfig(width=512, heads=8, layers=4)
    """10 M parameters, as medium has 40 M and large 200 M."""
    medium: TransformerConfig = TransformerConfig()
    large: TransformerConfig = TransformerConfig(width=1280, heads=20, layers=10)
    sequences: Sequences = Sequences()
    optim: OptimConfig = OptimConfig(lr=3e-4, eps=1e-6, clip=1.0, warmup=4_000, rule="lamb")
    batch_size: int = 2_048
    steps: int = 10_000_000


@config
class Scale:
    """How much of the paper to spend. `run` is Scaled QL at this scale; recipes change the rest."""

    name: str
    about: str
    """One line, with what it needs and takes."""
    run: RunConfig
    encoders: Encoders = Encoders()
    transformers: Transformers = Transformers()
    few_tasks: tuple[str, ...] = ("Asterix", "Breakout", "Pong", "Seaquest", "SpaceInvaders")
    """Of table 2's small study; the paper says six and names these five."""
    suboptimal: View = View(rows=First(fraction=0.2))
    """The part of the logs that table 2's small study learns from."""
    mae: MAE = MAE()
    """Masked autoencoding with a decoder of this scale."""
    episodes: int = 16
    """Evaluation episodes for each task."""
    held_out: tuple[str, ...] = with_role("heldout5")
    """Games that no pre-training sees, for fine-tuning: offline (figure 7), online beyond it."""
    held_out_view: View = View(rows=Uniform(fraction=0.01))
    """What fine-tuning sees of them (section 5.2)."""
    variants: tuple[str, ...] = ("Freeway:m1d0", "Hero:m1d0", "Breakout:m12d0")
    """Of training games, for online fine-tuning (figure 8)."""
    online: Online = Online()
    """How the agents play that learn from what they do."""
    tuning: int | None = None
    """Updates of each run on held-out, changed or new games. By default those of training, and from
    logs 100,000 at most."""
    seeds: int = 3
    """How many training runs each arm of a study gets, if not said otherwise."""
    data: tuple[str, ...] = ()
    """The commands that make its logs, in a store called `store`."""


Recipe = Callable[[Scale], RunConfig]
"""One named way to train; its docstring's first line says what it is."""


Panel = Literal["near-optimal", "sub-optimal"]
"""The two compositions of data in section 3: all of the logs, or their first part."""
Figure = Literal["bars", "profile", "improvement", "scaling", "tasks", "curves"]
Normal = Literal["human", "dqn", "raw"]
"""What 1 stands for in a study's scores; 0 is random play. Variants of games have raw scores."""
Statistic = Literal["IQM", "median"]


@config
class Published:
    """A number that the paper, or one of those it quotes, prints."""

    value: float
    """As a fraction where it is a normalised score: 0.778 is 77.8 %."""
    source: str
    """The section, table or caption that prints it."""


@config
class Arm:
    """One way to answer a study's question. Without a recipe it is the logs' own episodes."""

    label: str
    recipe: str = ""
    """A name in `study.recipes.RECIPES`."""
    start: str = ""
    """The recipe whose run on the scale's own tasks lends its encoder (section 5.2)."""
    frozen: bool = False
    """Whether that encoder stays as it was; it does too where the recipe says so."""
    selection: Selection | None = None
    """How the policy chooses an action; as its run does by default."""
    panel: Panel = "near-optimal"
    view: View | None = None
    """Instead of the panel's."""
    published: Published | None = None
    family: str = ""
    """Arms of one family lie on one curve of a scaling figure."""

    def __post_init__(self) -> None:
        if self.start and not self.recipe:
            raise ConfigError(f"arm {self.label!r}: names a start but no recipe to train with")


@config
class Claim:
    """That one arm scores better than another, as the paper says."""

    text: str
    better: str
    """An arm's label."""
    worse: str
    source: str
    panel: Panel = "near-optimal"


@config
class Study:
    """One figure or table: a question, and what is compared to answer it."""

    name: str
    title: str
    question: str
    arms: tuple[Arm, ...]
    statistic: Statistic = "IQM"
    """What the paper aggregates over games."""
    normal: Normal = "human"
    tasks: Literal["training", "held-out", "variants", "new"] = "training"
    """Which of the scale's; but for training, each is a run of its own. new: the held-out games, to
    be played."""
    figures: tuple[Figure, ...] = ("bars", "profile")
    claims: tuple[Claim, ...] = ()
    remarks: tuple[str, ...] = ()
    """What a reader of the table must know: gaps in the paper and how they were filled."""

    def __post_init__(self) -> None:
        keys = [(arm.panel, arm.label) for arm in self.arms]
        for key in keys:
            if keys.count(key) > 1:
                raise ConfigError(f"study {self.name}: two arms are {key[1]!r} on {key[0]} data")
        for claim in self.claims:
            for label in (claim.better, claim.worse):
                if (claim.panel, label) not in keys:
                    raise ConfigError(f"study {self.name}: a claim names no arm {label!r}")

    @property
    def panels(self) -> tuple[Panel, ...]:
        """The compositions of data that it looks at, in order."""
        return tuple(dict.fromkeys(arm.panel for arm in self.arms))
