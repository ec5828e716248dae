"""Neck and heads against loops over their definition."""

import pytest
import torch
from torch import nn

from scaledq.core.errors import ConfigError
from scaledq.core.outputs import HeadSpec
from scaledq.nets.head import NeckConfig, Network, SpatialEmbedding, TaskHeads, Trunk
from scaledq.nets.resnet import ResNet, ResNetConfig

HEADS = (
    HeadSpec(name="logits", size=5),
    HeadSpec(name="value", size=2, per_action=False),
    HeadSpec(name="behaviour", size=1, own_branch=True),
)


def network(neck: NeckConfig | None = None, tasks: tuple[int, ...] = (3, 6, 2, 4)) -> Network:
    torch.manual_seed(0)
    encoder = ResNet(ResNetConfig(depth=8, width=4, stem="patch"), (4, 32, 40))
    return Network(encoder, neck or NeckConfig(width=16), tasks=tasks, heads=HEADS)


def pictures(rows: int) -> torch.Tensor:
    return torch.randint(0, 256, (rows, 4, 32, 40), dtype=torch.uint8)


def test_each_sample_is_answered_by_its_own_tasks_head() -> None:
    heads = TaskHeads(4, 7, 10)
    features, task = torch.randn(6, 7), torch.tensor([3, 0, 0, 2, 3, 1])
    answer = heads(features, task)
    for row, (x, n) in enumerate(zip(features, task, strict=True)):
        torch.testing.assert_close(answer[row], heads.weight[n] @ x + heads.bias[n])


def test_a_row_pays_for_its_own_head_alone() -> None:
    heads = TaskHeads(4, 7, 10)
    heads(torch.randn(5, 7), torch.tensor([1, 3, 1, 1, 3])).square().sum().backward()
    for parameter in heads.parameters():
        assert parameter.grad is not None
        assert parameter.grad.flatten(1).any(1).tolist() == [False, True, False, True]


def test_outputs_have_the_promised_names_and_shapes() -> None:
    out = network()(pictures(3), torch.tensor([1, 0, 2]))
    shapes = {name: tuple(value.shape) for name, value in out.items()}
    assert shapes == {
        "features": (3, 16),
        "available": (3, 6),
        "logits": (3, 6, 5),
        "value": (3, 2),
        "behaviour": (3, 6, 1),
    }
    assert out["available"].sum(1).tolist() == [6, 3, 2]


def test_features_have_the_norm_that_the_config_says() -> None:
    for scale in (1.0, 4.0):
        net = network(NeckConfig(width=16, feature_scale=scale))
        norm = net(pictures(5), torch.zeros(5, dtype=torch.long))["features"].norm(dim=-1)
        torch.testing.assert_close(norm, torch.full((5,), scale))
    free = network(NeckConfig(width=16, unit_norm=False))
    norm = free(pictures(5), torch.zeros(5, dtype=torch.long))["features"].norm(dim=-1)
    assert norm.std() > 0


def test_every_parameter_gets_a_gradient_whatever_the_batch() -> None:
    net = network()
    out = net(pictures(2), torch.tensor([1, 1]))
    sum(out[spec.name].square().sum() for spec in HEADS).backward()  # pyright: ignore
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_a_vector_wants_no_spatial_embedding() -> None:
    with pytest.raises(ConfigError, match=r"neck.embedding.*'none'"):
        SpatialEmbedding(NeckConfig(), (8,))
    assert SpatialEmbedding(NeckConfig(embedding="none"), (8,)).size == 8
    assert isinstance(Trunk(NeckConfig(), 8), nn.Module)
