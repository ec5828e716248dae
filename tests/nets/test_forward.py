"""Every encoder's forward pass, written a second time in NumPy from its state dict alone.

Convolution, pooling and group norm are loops over their definitions; no padding or stride is asked
of torch.
"""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector

from scaledq.nets.impala import Impala, ImpalaConfig
from scaledq.nets.mlp import MLP, MLPConfig
from scaledq.nets.nature import Nature, NatureConfig
from scaledq.nets.resnet import STAGES, ResNet, ResNetConfig
from scaledq.run import assemble

Weights = Mapping[str, np.ndarray]


def conv(x, weight, *, stride=1, padding=0, bias=None) -> np.ndarray:
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    kernel = weight.shape[-1]
    rows, columns = ((side - kernel) // stride + 1 for side in x.shape[2:])
    out = np.zeros((len(x), len(weight), rows, columns))
    for i in range(rows):
        for j in range(columns):
            top, left = i * stride, j * stride
            patch = x[:, :, top : top + kernel, left : left + kernel].reshape(len(x), -1)
            out[:, :, i, j] = patch @ weight.reshape(len(weight), -1).T
    return out if bias is None else out + bias[:, None, None]


def pool(x) -> np.ndarray:
    """3x3 of stride 2, TensorFlow's SAME: what is missing is added, the odd cell at the end."""
    outs = [-(-side // 2) for side in x.shape[2:]]
    missing = [max(0, (o - 1) * 2 + 3 - side) for o, side in zip(outs, x.shape[2:], strict=True)]
    pads = [(m // 2, m - m // 2) for m in missing]
    x = np.pad(x, ((0, 0), (0, 0), *pads), constant_values=-np.inf)
    out = np.empty((*x.shape[:2], *outs))
    for i in range(outs[0]):
        for j in range(outs[1]):
            out[:, :, i, j] = x[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((2, 3))
    return out


def group_norm(x, weight, bias, *, groups, eps) -> np.ndarray:
    out = np.empty_like(x)
    size = x.shape[1] // groups
    for row in range(len(x)):
        for group in range(groups):
            part = slice(group * size, (group + 1) * size)
            cells = x[row, part]
            out[row, part] = (cells - cells.mean()) / np.sqrt(cells.var() + eps)
    return out * weight[:, None, None] + bias[:, None, None]


def relu(x) -> np.ndarray:
    return np.maximum(x, 0)


def resnet(x, w: Weights, cfg: ResNetConfig) -> np.ndarray:
    def conv_norm(x, name, index, *, stride, padding) -> np.ndarray:
        kernel = w[f"{name}.{index}.weight"]
        if cfg.weight_standardised:
            mean = kernel.mean((1, 2, 3), keepdims=True)
            kernel = (kernel - mean) / np.sqrt(kernel.var((1, 2, 3), keepdims=True) + 1e-10)
        x = conv(x, kernel, stride=stride, padding=padding)
        scale, shift = w[f"{name}.{index + 1}.weight"], w[f"{name}.{index + 1}.bias"]
        groups, eps = (32, 1e-4) if cfg.weight_standardised else (4, 1e-5)
        return group_norm(x, scale, shift, groups=groups, eps=eps)

    stride, padding = {"paper": (2, 3), "patch": (4, 2), "small": (1, 1)}[cfg.stem]
    x = relu(conv_norm(x, "stem", 0, stride=stride, padding=padding))
    x = pool(x) if cfg.stem == "paper" else x
    for stage, blocks in enumerate(STAGES[cfg.depth]):
        for block in range(blocks):
            name = f"stages.{stage}.{block}"
            stride = cfg.strides[stage] if block == 0 else 1
            if cfg.depth < 50:
                y = relu(conv_norm(x, f"{name}.branch", 0, stride=stride, padding=1))
                y = conv_norm(y, f"{name}.branch", 3, stride=1, padding=1)
            else:
                y = relu(conv_norm(x, f"{name}.branch", 0, stride=1, padding=0))
                y = relu(conv_norm(y, f"{name}.branch", 3, stride=stride, padding=1))
                y = conv_norm(y, f"{name}.branch", 6, stride=1, padding=0)
            if y.shape != x.shape:
                x = conv_norm(x, f"{name}.shortcut", 0, stride=stride, padding=0)
            x = relu(x + y)
    return x


def impala(x, w: Weights, cfg: ImpalaConfig) -> np.ndarray:
    def biased(x, name) -> np.ndarray:
        return conv(x, w[f"{name}.weight"], padding=1, bias=w[f"{name}.bias"])

    for stack in range(len(cfg.channels)):
        x = pool(biased(x, f"stacks.{stack}.0"))
        for block in range(cfg.residual_blocks):
            name = f"stacks.{stack}.{block + 2}"
            x = x + biased(relu(biased(relu(x), f"{name}.first")), f"{name}.second")
    return relu(x)


def nature(x, w: Weights, cfg: NatureConfig) -> np.ndarray:
    for layer, stride in enumerate((4, 2, 1)):
        index = layer * (3 if cfg.layer_norm else 2)
        bias = w[f"layers.{index}.bias"]
        x = conv(x, w[f"layers.{index}.weight"], stride=stride, bias=bias)
        if cfg.layer_norm:
            scale, shift = w[f"layers.{index + 1}.weight"], w[f"layers.{index + 1}.bias"]
            x = group_norm(x, scale, shift, groups=1, eps=1e-5)
        x = relu(x)
    return x


def mlp(x, w: Weights, cfg: MLPConfig) -> np.ndarray:
    x = x.reshape(len(x), -1)
    for layer in range(len(cfg.widths)):
        index = 1 + layer * (3 if cfg.layer_norm else 2)
        x = x @ w[f"layers.{index}.weight"].T + w[f"layers.{index}.bias"]
        if cfg.layer_norm:
            x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
            x = x * w[f"layers.{index + 1}.weight"] + w[f"layers.{index + 1}.bias"]
        x = relu(x)
    return x


SHAPE, VECTOR = (2, 37, 44), (2, 5)
CASES = [
    (ResNet, resnet, ResNetConfig(depth=8, width=4, stem="patch"), SHAPE),
    (ResNet, resnet, ResNetConfig(depth=8, width=4, stem="small", strides=(2, 2, 2, 1)), SHAPE),
    (ResNet, resnet, ResNetConfig(depth=34, width=4), SHAPE),
    (ResNet, resnet, ResNetConfig(depth=50, width=4), SHAPE),
    (ResNet, resnet, ResNetConfig(depth=8, width=32, weight_standardised=True), SHAPE),
    (Impala, impala, ImpalaConfig(channels=(4, 6, 6)), SHAPE),
    (Impala, impala, ImpalaConfig(channels=(2,) * 8, width=2, residual_blocks=1), SHAPE),
    (Nature, nature, NatureConfig(width=4), SHAPE),
    (Nature, nature, NatureConfig(width=4, layer_norm=True), SHAPE),
    (MLP, mlp, MLPConfig(widths=(7, 3)), VECTOR),
    (MLP, mlp, MLPConfig(widths=(7, 3), layer_norm=True), VECTOR),
]


def label(value: object) -> str:
    return getattr(value, "kind", "")


def roughened(net: nn.Module) -> nn.Module:
    """Moves every parameter, so that none is 0 or 1 and every one matters; in double precision."""
    for parameter in net.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return net.double()


@pytest.mark.parametrize(("encoder", "naive", "cfg", "shape"), CASES, ids=label)
def test_a_naive_forward_pass_answers_the_same(encoder, naive, cfg, shape) -> None:
    torch.manual_seed(0)
    net = roughened(encoder(cfg, shape))
    weights = {name: value.numpy() for name, value in net.state_dict().items()}
    x = torch.randn(2, *shape, dtype=torch.float64)
    with torch.no_grad():
        expected, answer = naive(x.numpy(), weights, cfg), net(x)
        single = net.float()(x.float())
    assert answer.shape[1:] == net.out_shape
    np.testing.assert_allclose(answer, expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(single, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("encoder", "naive", "cfg", "shape"), CASES, ids=label)
def test_gradients_are_those_of_finite_differences(encoder, naive, cfg, shape) -> None:
    torch.manual_seed(0)
    net = roughened(encoder(cfg, shape))
    x = torch.randn(2, *shape, dtype=torch.float64)
    shapes = {name: value.shape for name, value in net.named_parameters()}

    def answer(flat) -> torch.Tensor:
        parts = flat.split([shape.numel() for shape in shapes.values()])
        pairs = zip(shapes.items(), parts, strict=True)
        given = {name: part.view(shape) for (name, shape), part in pairs}
        return torch.func.functional_call(net, given, (x,)).flatten(1)

    flat = parameters_to_vector(net.parameters()).detach().requires_grad_()
    assert torch.autograd.gradcheck(answer, (flat,), fast_mode=True)


def test_channels_last_is_only_a_layout() -> None:
    net, x = ResNet(ResNetConfig(depth=8, width=4, stem="patch"), SHAPE), torch.randn(2, *SHAPE)
    plain = net(x)
    net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    last = net(x)
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, plain)


@pytest.mark.parametrize("cfg", [ImpalaConfig(channels=(4, 4)), ResNetConfig(depth=8, width=4)])
def test_pictures_in_colour_are_read_as_channels(cfg: ImpalaConfig | ResNetConfig) -> None:
    """[S H W C]: as the same encoder on S*C grey pictures, frame by frame and colour by colour."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        coloured = assemble.encoder(cfg, (2, 16, 12, 3))
        torch.manual_seed(0)
        grey = assemble.encoder(cfg, (6, 16, 12))
    x = torch.rand(5, 2, 16, 12, 3)
    channels = torch.stack([x[:, s, :, :, c] for s in range(2) for c in range(3)], dim=1)
    assert torch.equal(coloured(x), grey(channels))
    assert coloured.out_shape == grey.out_shape
