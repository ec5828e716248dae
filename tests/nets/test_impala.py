"""IMPALA encoders: the published sizes."""

import pytest
import torch

from scaledq.core.errors import ConfigError
from scaledq.core.outputs import HeadSpec
from scaledq.nets.head import NeckConfig, Network
from scaledq.nets.impala import Impala, ImpalaConfig

ATARI = (4, 84, 84)


def total_millions(cfg: ImpalaConfig, *, atoms: int) -> float:
    with torch.device("meta"):
        neck, heads = NeckConfig(embedding="none"), (HeadSpec(name="q", size=atoms),)
        net = Network(Impala(cfg, ATARI), neck, tasks=(18,), heads=heads)
    return sum(parameter.numel() for parameter in net.parameters()) / 1e6


@pytest.mark.parametrize(
    ("stacks", "channels", "published"), [(5, 128, 5), (10, 256, 30), (5, 512, 60), (10, 512, 120)]
)
def test_the_cql_baselines_have_their_published_sizes(stacks, channels, published) -> None:
    """About 5, 30, 60 and 120 M with one C51 head: Lee et al. (2022), the CQL baseline."""
    cfg = ImpalaConfig(channels=(channels,) * stacks)
    assert total_millions(cfg, atoms=51) == pytest.approx(published, rel=0.08)


@pytest.mark.parametrize("width", [1, 2, 4, 8, 16])
def test_every_width_counts_as_the_layout_says(width) -> None:
    inputs, count = 4, 0
    for base in (16, 32, 32):
        channels = base * width
        count += 9 * channels * (inputs + 4 * channels) + 5 * channels
        inputs = channels
    count += (11 * 11 * inputs + 1) * 512 + 513 * 18
    assert total_millions(ImpalaConfig(width=width), atoms=1) == pytest.approx(count / 1e6)


def test_the_map_is_halved_by_each_stack() -> None:
    assert Impala(ImpalaConfig(), ATARI).out_shape == (32, 11, 11)
    assert Impala(ImpalaConfig(channels=(4,) * 10), ATARI).out_shape == (4, 1, 1)


def test_impossible_configs_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"encoder\.channels"):
        ImpalaConfig(channels=())
    with pytest.raises(ConfigError, match="width >= 1"):
        ImpalaConfig(width=0)
    with pytest.raises(ConfigError, match="two axes"):
        Impala(ImpalaConfig(), (4, 8))
