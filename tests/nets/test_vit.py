"""The vision transformer: its published size, its patches and positions, its attention."""

import math

import pytest
import torch
from torch import nn

from scaledq.core.errors import ConfigError
from scaledq.nets.vit import Layer, ViT, ViTConfig, assembled, patches, sincos

SMALL = ViTConfig(patch=4, width=16, depth=2, heads=2)


def test_vit_base_on_a_stack_of_atari_frames_has_its_known_size() -> None:
    """12 layers of 12 D^2 + 13 D weights, a norm, and an embedding of 4 x 14 x 14 pixels."""
    with torch.device("meta"):
        net = ViT(ViTConfig(), (4, 84, 84))
    layers = 12 * (12 * 768**2 + 13 * 768)
    assert sum(p.numel() for p in net.parameters()) == layers + 2 * 768 + 785 * 768 == 85_658_880
    assert net.out_shape == (768, 6, 6)


def test_patches_are_read_in_order_and_put_together_again() -> None:
    x = torch.randn(2, 3, 8, 12)
    cut = patches(x, 4)
    assert cut.shape == (2, 6, 48)
    for row in range(2):
        for column in range(3):
            piece = x[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            assert torch.equal(cut[:, 3 * row + column], piece.flatten(1))
    assert torch.equal(assembled(cut, (2, 3), stack=3), x)


def test_positions_are_sines_and_cosines_of_row_and_column() -> None:
    found = sincos((2, 3), 8)
    for place in range(6):
        expected = []
        for number in (place // 3, place % 3):
            for function in (math.sin, math.cos):
                expected += [function(number / 10_000 ** (k / 2)) for k in range(2)]
        torch.testing.assert_close(found[place], torch.tensor(expected))


def test_a_layer_is_the_pre_norm_encoder_layer_of_torch() -> None:
    mine = Layer(16, 4)
    theirs = nn.TransformerEncoderLayer(
        16, 4, dim_feedforward=64, dropout=0, activation="gelu", batch_first=True, norm_first=True
    )
    names = {
        "self_attn.in_proj_weight": mine.qkv.weight,
        "self_attn.in_proj_bias": mine.qkv.bias,
        "self_attn.out_proj.weight": mine.out.weight,
        "self_attn.out_proj.bias": mine.out.bias,
        "linear1.weight": mine.mlp[0].weight,
        "linear1.bias": mine.mlp[0].bias,
        "linear2.weight": mine.mlp[2].weight,
        "linear2.bias": mine.mlp[2].bias,
        **{f"norm1.{k}": v for k, v in mine.norm.named_parameters()},
        **{f"norm2.{k}": v for k, v in mine.mlp_norm.named_parameters()},
    }
    theirs.load_state_dict({name: value.detach() for name, value in names.items()})  # pyright: ignore[reportAttributeAccessIssue]
    x = torch.randn(3, 5, 16)
    torch.testing.assert_close(mine(x), theirs(x))


def test_tokens_do_not_depend_on_the_order_in_which_patches_are_named() -> None:
    net = ViT(SMALL, (2, 8, 8))
    cut = patches(torch.randn(3, 2, 8, 8), 4)
    order = torch.stack([torch.randperm(4) for _ in range(3)])
    shuffled = net.encode(cut, order)
    expected = net.encode(cut).gather(1, order[:, :, None].expand(-1, -1, 16))
    torch.testing.assert_close(shuffled, expected)


def test_a_cell_of_the_map_is_its_patch() -> None:
    net = ViT(SMALL, (2, 8, 12))
    x = torch.randn(1, 2, 8, 12)
    cells = net(x)
    assert cells.shape[1:] == net.out_shape == (16, 2, 3)
    assert torch.equal(cells[0, :, 1, 2], net.encode(patches(x, 4))[0, 5])


def test_what_it_cannot_see_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"encoder\.patch: frames of 84x80"):
        ViT(ViTConfig(width=8, depth=1, heads=2), (4, 84, 80))
    with pytest.raises(ConfigError, match="two axes"):
        ViT(SMALL, (4, 7))
    with pytest.raises(ConfigError, match="no multiple of 4"):
        ViTConfig(width=30, heads=4)
    with pytest.raises(ConfigError, match=r"encoder\.depth"):
        ViTConfig(depth=0)
