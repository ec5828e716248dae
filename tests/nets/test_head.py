"""Neck and heads against loops over their definition."""

import pytest
import torch

from scaledq.core.errors import ConfigError
from scaledq.core.outputs import HeadSpec
from scaledq.nets.head import NeckConfig, Network, SpatialEmbedding, TaskHeads, Trunk
from scaledq.nets.resnet import ResNet, ResNetConfig

HEADS = (
    HeadSpec(name="logits", size=5),
    HeadSpec(name="value", size=2, per_action=False),
    HeadSpec(name="behaviour", size=1, own_branch=True),
)
TASKS = (3, 6, 2, 4)


def network(neck: NeckConfig | None = None, *, tasks: tuple[int, ...] = TASKS) -> Network:
    torch.manual_seed(0)
    encoder = ResNet(ResNetConfig(depth=8, width=4, stem="patch"), (4, 32, 40))
    return Network(encoder, neck or NeckConfig(width=16), tasks=tasks, heads=HEADS)


def pictures(rows: int) -> torch.Tensor:
    return torch.randint(0, 256, (rows, 4, 32, 40), dtype=torch.uint8)


@pytest.mark.parametrize("form", [TaskHeads.forward, TaskHeads.by_task, TaskHeads.every_task])
@pytest.mark.parametrize("rows", [0, 1, 6])
def test_each_sample_is_answered_by_its_own_tasks_head(form, rows) -> None:
    heads = TaskHeads(4, 7, 10)
    features, task = torch.randn(rows, 7), torch.tensor([3, 0, 0, 2, 3, 0])[:rows]
    answer = form(heads, features, task)
    assert answer.shape == (rows, 10)
    for row, (x, n) in enumerate(zip(features, task, strict=True)):
        torch.testing.assert_close(answer[row], heads.weight[n] @ x + heads.bias[n])


def test_a_frugal_network_says_the_same_of_the_actions_that_a_task_has_and_0_of_others() -> None:
    net, obs, task = network().eval(), pictures(6), torch.tensor([3, 0, 0, 2, 3, 1])
    with torch.inference_mode():
        plain = net(obs, task)
        with net.frugal():
            frugal = net(obs, task)
        again = net(obs, task)
    for name in ("logits", "behaviour"):
        own = plain["available"][:, :, None].expand_as(plain[name])
        torch.testing.assert_close(frugal[name][own], plain[name][own])
        assert (frugal[name][~own] == 0).all()
        assert (plain[name][~own] != 0).all()
        assert torch.equal(again[name], plain[name])
    assert torch.equal(frugal["value"], plain["value"])


@pytest.mark.parametrize("form", [TaskHeads.by_task, TaskHeads.every_task])
def test_a_heads_gradient_comes_from_its_own_rows(form) -> None:
    heads = TaskHeads(4, 7, 10)
    form(heads, torch.randn(5, 7), torch.tensor([1, 3, 1, 1, 3])).square().sum().backward()
    for parameter in heads.parameters():
        assert parameter.grad is not None
        assert parameter.grad.flatten(1).any(1).tolist() == [False, True, False, True]


@pytest.mark.parametrize("form", [TaskHeads.by_task, TaskHeads.every_task])
def test_head_gradients_are_those_of_finite_differences(form) -> None:
    heads, task = TaskHeads(3, 4, 5).double(), torch.tensor([2, 0, 2])

    def answer(features, weight, bias) -> torch.Tensor:
        heads.weight, heads.bias = weight, bias
        return form(heads, features, task)

    features = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(answer, (features, heads.weight, heads.bias))


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
    assert out["available"].tolist() == [
        [True] * 6,
        [True] * 3 + [False] * 3,
        [True] * 2 + [False] * 4,
    ]


def test_weights_of_slots_that_a_task_lacks_change_nothing_that_is_available() -> None:
    net, obs, task = network(), pictures(4), torch.arange(4)
    before = net(obs, task)
    for n, actions in enumerate(TASKS):
        for name, size in (("logits", 5), ("behaviour", 1)):
            heads = net.heads.get_submodule(name)
            heads.get_parameter("weight").data[n, actions * size :] += 1
            heads.get_parameter("bias").data[n, actions * size :] += 1
    after, available = net(obs, task), before["available"]
    for name in ("logits", "behaviour"):
        assert torch.equal(before[name][available], after[name][available])
        assert (before[name][~available] != after[name][~available]).all()


def test_features_have_the_norm_that_the_config_says() -> None:
    task = torch.zeros(5, dtype=torch.long)
    for scale in (1.0, 4.0):
        net = network(NeckConfig(width=16, feature_scale=scale))
        norm = net(pictures(5), task)["features"].norm(dim=-1)
        torch.testing.assert_close(norm, torch.full((5,), scale))
    free = network(NeckConfig(width=16, unit_norm=False, feature_scale=3.0))
    assert free(pictures(5), task)["features"].norm(dim=-1).std() > 0


def test_every_parameter_gets_a_gradient_whatever_the_batch() -> None:
    net = network()
    out = net(pictures(2), torch.tensor([1, 1]))
    torch.stack([out[spec.name].square().sum() for spec in HEADS]).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_a_branch_of_its_own_shares_the_encoder_but_not_the_trunk() -> None:
    net = network()
    net(pictures(2), torch.tensor([1, 0]))["behaviour"].square().sum().backward()
    assert all(parameter.grad is None for parameter in net.trunk.parameters())
    shared = [*net.encoder.parameters(), *net.embedding.parameters()]
    assert all(parameter.grad is not None for parameter in shared)
    assert set(net.branches) == {"behaviour"}


def test_the_sum_embedding_is_a_weighted_sum_over_the_map_for_each_channel() -> None:
    layer, x = SpatialEmbedding(NeckConfig(embeddings=3), (2, 4, 5)), torch.randn(2, 2, 4, 5)
    answer = layer(x)
    assert answer.shape == (2, layer.size) == (2, 6)
    for row in range(2):
        for k in range(3):
            for c in range(2):
                cells = [
                    x[row, c, h, w] * layer.weight[k, c, h, w] for h in range(4) for w in range(5)
                ]
                torch.testing.assert_close(answer[row, k * 2 + c], torch.stack(cells).sum())


def test_the_product_embedding_weighs_every_cell() -> None:
    layer, x = SpatialEmbedding(NeckConfig(embedding="product"), (2, 4, 5)), torch.randn(2, 2, 4, 5)
    layer.weight.data.normal_()
    cells = [
        x[row, c, h, w] * layer.weight[c, h, w]
        for row in range(2)
        for c in range(2)
        for h in range(4)
        for w in range(5)
    ]
    torch.testing.assert_close(layer(x), torch.stack(cells).reshape(2, layer.size))


def test_without_embedding_the_map_is_flattened() -> None:
    x = torch.randn(2, 2, 4, 5)
    layer = SpatialEmbedding(NeckConfig(embedding="none"), (2, 4, 5))
    assert torch.equal(layer(x), x.flatten(1))
    assert not list(layer.parameters())


def test_a_vector_wants_no_spatial_embedding() -> None:
    for embedding in ("sum", "product"):
        with pytest.raises(ConfigError, match=r"neck\.embedding.*'none'"):
            SpatialEmbedding(NeckConfig(embedding=embedding), (8,))
    assert SpatialEmbedding(NeckConfig(embedding="none"), (8,)).size == 8


@pytest.mark.parametrize("embedding", ["sum", "product", "none"])
def test_neck_gradients_are_those_of_finite_differences(embedding) -> None:
    torch.manual_seed(0)
    cfg = NeckConfig(embedding=embedding, embeddings=2, width=4, layers=2, layer_norm=True)
    layer = SpatialEmbedding(cfg, (2, 2, 3)).double()
    trunk = Trunk(cfg, layer.size).double()
    x = torch.randn(2, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    parameters = (*layer.parameters(), *trunk.parameters())
    assert torch.autograd.gradcheck(lambda x, *_: trunk(layer(x)), (x, *parameters))


def test_impossible_necks_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"neck\.embeddings"):
        NeckConfig(embeddings=0)
    with pytest.raises(ConfigError, match=r"neck\.width"):
        NeckConfig(width=-1)
    with pytest.raises(ConfigError, match=r"neck\.layers"):
        NeckConfig(layers=0)
    with pytest.raises(ConfigError, match=r"neck\.feature_scale"):
        NeckConfig(feature_scale=0.0)


def test_an_exported_network_takes_any_number_of_rows() -> None:
    net, rows = network(), torch.export.Dim("rows", min=1, max=64)
    given = (pictures(4), torch.arange(4))
    exported = torch.export.export(net, given, dynamic_shapes=({0: rows}, {0: rows})).module()
    obs, task = pictures(7), torch.tensor([3, 3, 0, 1, 2, 0, 1])
    torch.testing.assert_close(exported(obs, task), net(obs, task))
