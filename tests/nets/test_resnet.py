"""ResNets: sizes as published, maps as announced, refusals."""

import pytest
import torch
from torch import nn

from scaledq.core.config import from_json, to_json
from scaledq.core.errors import ConfigError
from scaledq.core.outputs import HeadSpec
from scaledq.nets.head import NeckConfig, Network
from scaledq.nets.resnet import ResNet, ResNetConfig


def millions(net: nn.Module) -> float:
    return sum(parameter.numel() for parameter in net.parameters()) / 1e6


@pytest.mark.parametrize(
    ("depth", "backbone", "total"),
    [(34, 21.29, 30.6), (50, 23.51, 59.8), (101, 42.50, 78.8), (152, 58.15, 94.4)],
)
def test_parameter_counts_are_the_published_ones(depth, backbone, total) -> None:
    """31, 60 and 79 M: Farebrother et al. (2024), figure 7, whose networks are the paper's; they
    count 18 scalar outputs for each of 40 games. 152 is not published."""
    with torch.device("meta"):
        encoder = ResNet(ResNetConfig(depth=depth), (4, 84, 84))
        heads = (HeadSpec(name="q", size=1),)
        net = Network(encoder, NeckConfig(), tasks=(18,) * 40, heads=heads)
    assert encoder.out_shape[1:] == (6, 6)
    assert millions(encoder) == pytest.approx(backbone, abs=0.005)
    assert millions(net) == pytest.approx(total, abs=0.05)


@pytest.mark.parametrize("frame", [(84, 84), (34, 61), (16, 16)])
@pytest.mark.parametrize("stem", ["paper", "small", "patch"])
@pytest.mark.parametrize("depth", [8, 18, 50])
def test_the_map_has_the_shape_that_was_announced(depth, stem, frame) -> None:
    net = ResNet(ResNetConfig(depth=depth, width=4, stem=stem), (2, *frame))
    with torch.no_grad():
        assert net(torch.zeros(1, 2, *frame)).shape[1:] == net.out_shape


def test_the_small_network_has_three_stages_and_ends_on_6x6() -> None:
    net = ResNet(ResNetConfig(depth=8, width=16, stem="patch"), (4, 84, 84))
    assert len(net.stages) == 3
    assert net.out_shape == (64, 6, 6)


def test_bottlenecks_start_as_their_shortcut() -> None:
    net = ResNet(ResNetConfig(depth=50, width=4), (4, 40, 40))
    block = net.stages[0].get_submodule("1")
    x = torch.rand(2, 16, 10, 10)
    torch.testing.assert_close(block(x), x)


def test_the_weights_variance_is_that_of_kaiming() -> None:
    weight = ResNet(ResNetConfig(depth=18), (4, 84, 84)).stages.get_parameter("3.0.branch.0.weight")
    assert weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)


@pytest.mark.parametrize(
    ("cfg", "frame", "message"),
    [
        (ResNetConfig(depth=18, strides=(1, 2, 2, 2)), (9, 16), r"encoder\.strides: .*9x16.*stage"),
        (ResNetConfig(depth=18), (8, 8), r"encoder\.strides: too deep for frames of 8x8: stage 3"),
        (ResNetConfig(depth=8, stem="patch"), (3, 9), r"encoder\.stem: .*4x4"),
        (ResNetConfig(), (84, 84, 3), r"two axes .*\(84, 84, 3\)"),
        (ResNetConfig(), (8,), r"kind 'mlp'"),
    ],
)
def test_frames_that_do_not_fit_are_refused(cfg, frame, message) -> None:
    with pytest.raises(ConfigError, match=message):
        ResNet(cfg, (4, *frame))


def test_configs_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"encoder\.width: 30 channels .* 4 groups"):
        ResNetConfig(width=30)
    with pytest.raises(ConfigError, match=r"encoder\.width: 16 channels .* 32 groups"):
        ResNetConfig(width=16, weight_standardised=True)
    with pytest.raises(ConfigError, match=r"encoder\.strides"):
        ResNetConfig(strides=(1, 3, 1, 1))
    with pytest.raises(ConfigError, match="0 groups"):
        ResNetConfig(groups=0)


def test_a_config_survives_json() -> None:
    cfg = ResNetConfig(depth=101, weight_standardised=True, strides=(1, 2, 1, 1))
    assert from_json(ResNetConfig, to_json(cfg)) == cfg
