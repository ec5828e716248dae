"""The Nature network: its published size, and the frames it cannot take."""

import pytest
import torch

from scaledq.core.errors import ConfigError
from scaledq.core.outputs import HeadSpec
from scaledq.nets.head import NeckConfig, Network
from scaledq.nets.nature import Nature, NatureConfig


def test_the_dqn_of_18_actions_has_its_known_size() -> None:
    """1,693,362: Mnih et al. (2015), extended data table 1."""
    neck = NeckConfig(embedding="none", unit_norm=False)
    heads = (HeadSpec(name="q", size=1),)
    net = Network(Nature(NatureConfig(), (4, 84, 84)), neck, tasks=(18,), heads=heads)
    assert sum(parameter.numel() for parameter in net.parameters()) == 1_693_362


def test_the_smallest_frame_is_36x36() -> None:
    net = Nature(NatureConfig(width=2), (4, 36, 36))
    assert net(torch.zeros(1, 4, 36, 36)).shape[1:] == net.out_shape == (4, 1, 1)
    with pytest.raises(ConfigError, match=r"encoder\.kind: .*36x36, got 35x84"):
        Nature(NatureConfig(), (4, 35, 84))
    with pytest.raises(ConfigError, match=r"encoder\.width"):
        NatureConfig(width=0)
