"""ResNets: sizes as published, and a forward pass written a second time."""

import pytest
import torch

from scaledq.core.errors import ConfigError
from scaledq.core.outputs import HeadSpec
from scaledq.nets.head import NeckConfig, Network
from scaledq.nets.resnet import ResNet, ResNetConfig


@pytest.mark.parametrize("frame", [(84, 84), (34, 61), (16, 16)])
@pytest.mark.parametrize("stem", ["paper", "small", "patch"])
@pytest.mark.parametrize("depth", [8, 18, 50])
def test_the_map_has_the_shape_that_was_announced(depth, stem, frame) -> None:
    net = ResNet(ResNetConfig(depth=depth, width=4, stem=stem), (2, *frame))
    with torch.no_grad():
        assert net(torch.zeros(1, 2, *frame)).shape[1:] == net.out_shape


@pytest.mark.parametrize(
    ("depth", "backbone", "total"), [(34, 21.29, 30.6), (50, 23.51, 59.8), (101, 42.50, 78.8)]
)
def test_parameter_counts_are_the_published_ones(depth, backbone, total) -> None:
    """31, 60 and 79 M: Farebrother et al. (2024), figure 7, whose networks are the paper's."""
    with torch.device("meta"):
        encoder = ResNet(ResNetConfig(depth=depth), (4, 84, 84))
        heads = (HeadSpec(name="q", size=1),)
        net = Network(encoder, NeckConfig(), tasks=(18,) * 40, heads=heads)
    assert encoder.out_shape[1:] == (6, 6)
    assert millions(encoder) == pytest.approx(backbone, abs=0.005)
    assert millions(net) == pytest.approx(total, abs=0.05)


def millions(net: torch.nn.Module) -> float:
    return sum(parameter.numel() for parameter in net.parameters()) / 1e6


def test_a_frame_too_small_for_the_strides_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"encoder\.strides: too deep for frames of 8x8: stage 3"):
        ResNet(ResNetConfig(depth=18, width=4, strides=(1, 2, 2, 2)), (4, 8, 8))
