"""The encoder of vector tasks, alone and under a network."""

import pytest
import torch

from scaledq.core.errors import ConfigError
from scaledq.core.outputs import HeadSpec
from scaledq.nets.head import NeckConfig, Network
from scaledq.nets.mlp import MLP, MLPConfig


def test_float_vectors_are_taken_as_they_are_and_bytes_as_parts_of_one() -> None:
    torch.manual_seed(0)
    net = Network(
        MLP(MLPConfig(widths=(8,)), (2, 3)),
        NeckConfig(embedding="none", width=8),
        tasks=(2,),
        heads=(HeadSpec(name="q", size=1),),
    )
    task = torch.zeros(4, dtype=torch.long)
    raw = torch.randint(0, 256, (4, 2, 3), dtype=torch.uint8)
    torch.testing.assert_close(net(raw, task), net(raw / 255, task))
    torch.testing.assert_close(net(raw.long(), task), net(raw.float(), task))
    torch.testing.assert_close(net(raw.double(), task), net(raw.float(), task))
    assert net(raw.double(), task)["q"].dtype == torch.float32


def test_widths_must_be_given() -> None:
    with pytest.raises(ConfigError, match=r"encoder\.widths"):
        MLPConfig(widths=())
