"""Tokens, masks and answers against a description in loops; the decoder against the whole pass."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from scaledq.core.errors import ConfigError
from scaledq.core.vocabulary import Vocabulary
from scaledq.nets.decoder import Decoder
from scaledq.nets.layout import Layout
from scaledq.nets.resnet import ResNet, ResNetConfig
from scaledq.nets.transformer import Block, Dropout, Transformer, TransformerConfig

SMALL = TransformerConfig(width=16, heads=2, layers=3, patch=4, dropout=0.0)
CONVOLUTIONS = ResNetConfig(depth=8, width=4, stem="small")
WORDS = Vocabulary(((0, 1, 3), (4, 5, 6, 7)), 8)
SIZES = {
    "10 M": (TransformerConfig(width=512, heads=8, layers=4), 12_954_253),
    "40 M": (TransformerConfig(), 43_044_237),
    "200 M": (TransformerConfig(width=1280, heads=20, layers=10), 197_635_981),
}


def transformer(cfg: TransformerConfig = SMALL, *, returns: int = 7, context: int = 3,
                frame: tuple[int, ...] = (8, 8), stack: int = 0) -> Transformer:  # fmt: skip
    """It has a convolutional encoder where there are stacks for it."""
    torch.manual_seed(0)
    net = Transformer(
        cfg,
        frame,
        context=context,
        vocabulary=WORDS,
        returns=returns,
        encoder=ResNet(CONVOLUTIONS, (stack, *frame)) if stack else None,
        stack=stack or 1,
    )
    for parameter in net.parameters():  # so that biases and places count, too
        parameter.data += 0.1 * torch.randn_like(parameter)
    return net.eval()


def windows(steps: int = 3, rows: int = 5, frame: tuple[int, ...] = (8, 8)) -> tuple[Tensor, ...]:
    torch.manual_seed(1)
    task = torch.arange(rows) % 2
    return (
        torch.randint(256, (rows, steps, *frame), dtype=torch.uint8),
        task,
        torch.randint(3, (rows, steps)),
        torch.randint(3, (rows, steps)),
        torch.randint(7, (rows,)),
    )


def described(context: int, patches: int, *, returns: bool) -> list[tuple[str, int]]:
    """The sequence as one would tell it: what each token is, and of which step."""
    tokens = []
    for step in range(context):
        tokens += [("patch", step)] * patches
        tokens += [("return", step)] if returns else []
        tokens += [("action", step), ("reward", step)]
    return tokens


@pytest.mark.parametrize("returns", [True, False])
@pytest.mark.parametrize(("context", "patches"), [(4, 36), (3, 1), (1, 4)])
def test_the_mask_is_as_described(context: int, patches: int, returns: bool) -> None:
    layout = Layout(context, patches, returns=returns)
    tokens = described(context, patches, returns=returns)
    mask = layout.mask()
    assert mask.shape == (len(tokens), len(tokens))
    for q, (asker, step) in enumerate(tokens):
        for k, (seen, other) in enumerate(tokens):
            one_image = asker == seen == "patch" and step == other
            hidden = seen == "return" and other > 0
            assert mask[q, k] == ((k <= q or one_image) and not hidden), (q, k)
    if patches == 36:
        assert layout.length == (156 if returns else 152)


@pytest.mark.parametrize("returns", [True, False])
def test_what_is_read_out_where(returns: bool) -> None:
    layout = Layout(4, 36, returns=returns)
    tokens = described(4, 36, returns=returns)
    step = tokens[: layout.step]
    assert step[layout.action][0] == "action"
    assert step[layout.reward][0] == "reward"
    assert step[layout.choice][0] == ("return" if returns else "patch")
    assert step[layout.choice + 1][0] == "action"
    lasting = layout.lasting(4).tolist()
    assert [tokens[p] for p in lasting] == [
        token for token in tokens if token not in {("action", 3), ("reward", 3)}
        and not (token[0] == "return" and token[1] > 0)
    ]  # fmt: skip


def embedded_by_hand(net: Transformer, inputs: tuple[Tensor, ...], row: int) -> Tensor:
    """One row's tokens, one at a time."""
    frames, task, action, reward, returns = (part[row].numpy() for part in inputs)
    tokens, projection = [], net.image.projection
    for step, frame in enumerate(frames):
        padded = np.pad(frame / 255, ((0, -len(frame) % 4), (0, -len(frame[0]) % 4)))
        number = 0
        for top in range(0, padded.shape[0], 4):
            for left in range(0, padded.shape[1], 4):
                patch = torch.tensor(padded[top : top + 4, left : left + 4]).float().flatten()
                tokens.append(projection(patch) + net.image.places[number])
                number += 1
        hoped = net.returns[int(returns)] if step == 0 else torch.zeros(16)
        word = WORDS.tokens[int(task)][int(action[step])]
        tokens += [hoped, net.actions[word], net.rewards[int(reward[step])]]
    return torch.stack([token + net.positions[place] for place, token in enumerate(tokens)])


@pytest.mark.parametrize("frame", [(8, 8), (7, 10)])
def test_tokens_are_as_described(frame: tuple[int, int]) -> None:
    net, inputs = transformer(frame=frame), windows(frame=frame)
    x = net.embed(*inputs)
    for row in range(2):
        torch.testing.assert_close(x[row], embedded_by_hand(net, inputs, row))


@pytest.mark.parametrize("stack", [1, 3])
def test_the_tokens_of_a_map_are_its_places_of_stacks_that_the_window_holds(stack: int) -> None:
    net = transformer(frame=(8, 12), stack=stack)
    frames, *rest = windows(frame=(8, 12))
    assert isinstance(net.encoder, ResNet)
    assert net.encoder.out_shape == (16, 2, 3)
    assert net.layout.patches == 6
    tokens = net.embed(frames, *rest).unflatten(1, (3, net.layout.step))
    for row, step in ((0, 0), (1, 1), (4, 2)):
        seen = torch.zeros(1, stack, 8, 12)
        for age in range(min(stack, step + 1)):
            seen[0, stack - 1 - age] = frames[row, step - age] / 255
        answer = net.encoder(seen)[0]
        for down in range(2):
            for right in range(3):
                number = 3 * down + right
                token = net.image.projection(answer[:, down, right]) + net.image.places[number]
                place = net.positions[step * net.layout.step + number]
                torch.testing.assert_close(tokens[row, step, number], token + place)


def test_a_layer_is_attention_and_a_widening_by_the_book() -> None:
    net = transformer()
    block, x, mask = net.blocks[0], net.embed(*windows()), net.mask
    assert isinstance(block, Block)
    normed = block.attention_norm(x)
    weight, bias = block.queries_keys_values.weight, block.queries_keys_values.bias
    by_the_book = torch.nn.MultiheadAttention(16, 2, batch_first=True)
    by_the_book.load_state_dict(
        {
            "in_proj_weight": weight,
            "in_proj_bias": bias,
            "out_proj.weight": block.joined.weight,
            "out_proj.bias": block.joined.bias,
        }
    )
    mixed, _ = by_the_book(normed, normed, normed, attn_mask=~mask)
    y = x + mixed
    expected = y + block.widening(block.widening_norm(y))
    torch.testing.assert_close(block(x, mask, Dropout(0.0, 0, x.device)), expected)


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_the_published_ones(name: str) -> None:
    cfg, parameters = SIZES[name]
    joystick = Vocabulary((tuple(range(18)),), 18)
    with torch.device("meta"):
        net = Transformer(cfg, (84, 84), context=4, vocabulary=joystick, returns=120)
    assert sum(p.numel() for p in net.parameters()) == parameters
    d, layers = cfg.width, cfg.layers
    blocks = layers * (12 * d * d + 13 * d)
    outside = d * (196 + 1 + 36 + 156 + 18 + 3 + 120 + 2) + (d + 1) * (18 + 3 + 120)
    assert parameters == blocks + outside
    assert net.layout.length == 156


@pytest.mark.parametrize(("returns", "stack"), [(7, 0), (0, 0), (7, 2)])
def test_answers_depend_on_nothing_that_comes_later(returns: int, stack: int) -> None:
    net, (*parts, hoped) = transformer(returns=returns, stack=stack), windows()
    first = (hoped,) if returns else ()
    before = net(*parts, *first)
    frames, task, action, reward = (part.clone() for part in parts)
    action[:, 1], reward[:, 1], frames[:, 2] = 2 - action[:, 1], 2 - reward[:, 1], 0
    after = net(frames, task, action, reward, *first)
    torch.testing.assert_close(before["policy"][:, :2], after["policy"][:, :2])
    torch.testing.assert_close(before["reward"][:, 0], after["reward"][:, 0])
    assert not torch.allclose(before["policy"][:, 2], after["policy"][:, 2])
    changed = (reward[:, 1] != parts[3][:, 1]) | (action[:, 1] != parts[2][:, 1])
    assert not torch.allclose(before["reward"][changed, 1], after["reward"][changed, 1])
    if returns:
        torch.testing.assert_close(before["return"], after["return"])
        other = net(*parts, 6 - hoped)
        torch.testing.assert_close(before["return"], other["return"])
        assert not torch.allclose(before["policy"][:, 2], other["policy"][:, 2])


def test_a_task_answers_in_its_own_words() -> None:
    net, inputs = transformer(), windows()
    out = net(*inputs)
    assert out["available"].tolist() == [[t == 1 or a < 3 for a in range(4)] for t in inputs[1]]
    logits = net.action_head(out["features"])
    for row, task in enumerate(inputs[1].tolist()):
        own = torch.tensor(WORDS.tokens[task])
        torch.testing.assert_close(out["policy"][row, :, : len(own)], logits[row][:, own])


@pytest.mark.parametrize("returns", [7, 0])
@pytest.mark.parametrize(("frame", "stack"), [((8, 8), 0), ((6,), 0), ((8, 8), 1), ((8, 8), 3)])
def test_deciding_with_a_memory_is_deciding_without(
    returns: int, frame: tuple[int, ...], stack: int
) -> None:
    net = transformer(returns=returns, context=4, frame=frame, stack=stack)
    frames, task, action, reward, hoped = windows(4, frame=frame)
    first = (hoped,) if returns else ()
    whole = net(frames, task, action, reward, *first)
    out = whole["policy"].masked_fill(~whole["available"][:, None], -torch.inf)
    decoder, every = Decoder(net, 5), torch.arange(5)
    asked = []

    def choose(logits: Tensor) -> Tensor:
        asked.append(logits)
        return hoped

    for steps in ([1, 2, 3, 4, 2], [3, 3, 3, 3, 3]):  # windows anew, at once
        lengths = torch.tensor(steps)
        got = decoder.begin(every, frames, task, action, reward, steps=lengths, choose=choose)
        torch.testing.assert_close(got, out[every, lengths - 1])
    if returns:
        torch.testing.assert_close(asked[0], whole["return"])
    assert len(asked) == (2 if returns else 0)

    begun, at = torch.tensor([0, 2, 3]), torch.tensor([1, 2, 1])
    parts = (part[begun] for part in (frames, task, action, reward))
    decoder.begin(begun, *parts, steps=at, choose=lambda logits: hoped[begun])
    for rows, step in (
        (begun, at),
        (begun[[0, 2]], torch.tensor([2, 2])),
        (begun, torch.tensor([3] * 3)),
    ):
        got = decoder.extend(
            rows, frames[rows, step], task[rows], action[rows, step - 1], reward[rows, step - 1],
            steps=step,
        )  # fmt: skip
        torch.testing.assert_close(got, out[rows, step])


def test_a_longer_context_than_trained_is_refused() -> None:
    with pytest.raises(ConfigError, match="contexts of 3 steps"):
        transformer()(*windows(4))


@pytest.mark.parametrize("field", ["width", "heads", "layers", "patch"])
def test_impossible_sizes_are_refused(field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        replace(SMALL, **{field: 0})
    with pytest.raises(ConfigError, match="multiple"):
        replace(SMALL, width=17)


def test_dropout_is_named_by_its_number() -> None:
    net = transformer(replace(SMALL, dropout=0.5)).train()
    first, again, other = (net(*windows(), noise=n)["policy"] for n in (3, 3, 4))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.allclose(first, other)
    torch.testing.assert_close(net.eval()(*windows(), noise=3)["policy"],
                               transformer()(*windows())["policy"])  # fmt: skip
