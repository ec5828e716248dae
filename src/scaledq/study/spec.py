"""Experiments as data: a scale is how much to spend, a recipe is one way to train."""

from collections.abc import Callable

from scaledq.core.config import config
from scaledq.data.view import First, View
from scaledq.nets.impala import ImpalaConfig
from scaledq.nets.nature import NatureConfig
from scaledq.nets.resnet import ResNetConfig
from scaledq.run.config import Encoder, RunConfig


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


@config
class Scale:
    """How much of the paper to spend. `run` is Scaled QL at this scale; recipes change the rest."""

    name: str
    about: str
    """One line, with what it needs and takes."""
    run: RunConfig
    encoders: Encoders = Encoders()
    few_tasks: tuple[str, ...] = ("Asterix", "Breakout", "Pong", "Seaquest", "SpaceInvaders")
    """Of table 2's small study; the paper says six and names these five."""
    suboptimal: View = View(rows=First(fraction=0.2))
    """The part of the logs that table 2's small study learns from."""
    episodes: int = 16
    """Evaluation episodes for each task."""


Recipe = Callable[[Scale], RunConfig]
"""One named way to train; its docstring's first line says what it is."""
