"""How a transformer acts step by step without reading again what it has read.

Keys and values of every token that a later one can see are kept by place, for R rows that each may
be at another step. Shapes: R rows, r of them, T steps, L tokens, k of them seen, D width,
A actions, Z returns.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from scaledq.nets.transformer import Block, Transformer

Choose = Callable[[Float[Tensor, "r Z"]], Int[Tensor, "r"]]
"""Picks each row's return from its logits."""


class Decoder:
    """A transformer and what it remembers of R windows.

    It answers what the whole window's pass would, to rounding. In the last layer only one token is
    asked for: of the others, what came in is kept, and neither keys nor values are ever computed.
    """

    def __init__(self, net: Transformer, rows: int):
        self.net, self.layout = net, net.layout
        like = net.positions
        width, heads, places = net.cfg.width, net.cfg.heads, (rows, self.layout.length)
        self._kept = like.new_zeros(len(net.blocks) - 1, 2, *places, heads, width // heads)
        self._inputs = like.new_zeros(*places, width)
        self._before: Tensor | None = None  # [R S-1 *frame]: what an encoder sees again

    @property
    def device(self) -> torch.device:
        return self._inputs.device

    @torch.inference_mode()
    def begin(
        self,
        rows: Int[Tensor, "r"],
        frames: Shaped[Tensor, "r T *frame"],
        task: Int[Tensor, "r"],
        action: Int[Tensor, "r T"],
        reward: Int[Tensor, "r T"],
        *,
        steps: Int[Tensor, "r"],
        choose: Choose,
    ) -> Float[Tensor, "r A"]:
        """Reads new windows and answers the policy's logits for the last step of each.

        Args:
          rows: in rising order.
          action, reward: the last step's are not looked at; nor is anything beyond `steps`.
          choose: asked once, about the first step's return; never by a BC transformer.
        """
        layout = self.layout
        self._note(rows, frames, steps)
        x = self.net.embed(frames, task, action, reward)
        places = layout.lasting(frames.shape[1]).to(x.device)
        if layout.returns:
            first = places[: layout.patches].expand(len(rows), -1)
            answer = self._pass(rows, x[:, : layout.patches], first)
            chosen = choose(self.net.return_head(answer))
            x[:, layout.patches] += self.net.returns[chosen]
            places = places[layout.patches :]
        asked = (steps - 1) * layout.step + layout.choice
        at = torch.cat([places.expand(len(rows), -1), asked[:, None]], 1)
        tokens = x.gather(1, at[..., None].expand(-1, -1, x.shape[-1]))
        return self._policy(self._pass(rows, tokens, at), task)

    @torch.inference_mode()
    def extend(
        self,
        rows: Int[Tensor, "r"],
        frame: Shaped[Tensor, "r *frame"],
        task: Int[Tensor, "r"],
        action: Int[Tensor, "r"],
        reward: Int[Tensor, "r"],
        *,
        steps: Int[Tensor, "r"],
    ) -> Float[Tensor, "r A"]:
        """Adds a step behind the `steps` that a row's window has, and answers its logits.

        Args:
          action, reward: what the step before did and was paid.
        """
        net, layout = self.net, self.layout
        done = net.embed_actions(action[:, None], task)
        image = net.see(frame[:, None], self._followed(rows, frame))[:, 0]
        parts = [done, net.rewards[reward][:, None], image]
        if layout.returns:
            parts.append(torch.zeros_like(done))
        x = torch.cat(parts, 1)
        at = (steps * layout.step - 2)[:, None] + torch.arange(x.shape[1], device=x.device)
        return self._policy(self._pass(rows, x + net.positions[at], at), task)

    def _note(
        self, rows: Int[Tensor, "r"], frames: Shaped[Tensor, "r T *frame"], steps: Int[Tensor, "r"]
    ) -> None:
        """Keeps the last frames of windows of so many steps, with zeros before their first."""
        before, picture = self.net.before, frames.shape[2:]
        if not before:
            return
        if self._before is None:
            self._before = frames.new_zeros(len(self._inputs), before, *picture)
        padded = torch.cat([frames.new_zeros(len(rows), before, *picture), frames], 1)
        at = steps[:, None] + torch.arange(before, device=steps.device)
        self._before[rows] = padded[torch.arange(len(rows), device=rows.device)[:, None], at]

    def _followed(
        self, rows: Int[Tensor, "r"], frame: Shaped[Tensor, "r *frame"]
    ) -> Shaped[Tensor, "r s *frame"] | None:
        """The frames before this one, which is kept in the place of the oldest."""
        if self._before is None:
            return None
        before = self._before[rows]
        self._before[rows] = torch.cat([before[:, 1:], frame[:, None]], 1)
        return before

    def _policy(self, answer: Float[Tensor, "r D"], task: Int[Tensor, "r"]) -> Tensor:
        logits = self.net.policy(answer[:, None], task)[:, 0]
        return logits.masked_fill(~self.net.available[task], -torch.inf)

    def _pass(
        self, rows: Int[Tensor, "r"], x: Float[Tensor, "r l D"], at: Int[Tensor, "r l"]
    ) -> Float[Tensor, "r D"]:
        """Reads tokens at their places and answers the last of them, after the final norm."""
        length, every = int(at.max()) + 1, len(rows) == len(self._inputs)
        mask = self.net.mask[at, :length][:, None]

        def seen(kept: Tensor, new: Tensor) -> Tensor:
            """What is new goes to its places; all that the rows have come back."""
            kept[rows[:, None], at] = new
            return kept[:, :length] if every else kept[rows, :length]

        *blocks, last = self.net.blocks
        for (kept_keys, kept_values), block in zip(self._kept, blocks, strict=True):
            assert isinstance(block, Block)
            parts = block.queries_keys_values(block.attention_norm(x))
            queries, keys, values = parts.unflatten(-1, (3, block.heads, -1)).unbind(2)
            keys, values = seen(kept_keys, keys), seen(kept_values, values)
            x = x + block.attend(queries, keys, values, mask)
            x = x + block.widening(block.widening_norm(x))
        assert isinstance(last, Block)
        inputs = seen(self._inputs, last.attention_norm(x))
        x = x[:, -1] + _attend_once(last, x[:, -1], inputs, mask[:, 0, -1])
        return self.net.norm(x + last.widening(last.widening_norm(x)))


def _attend_once(
    block: Block,
    asking: Float[Tensor, "r D"],
    seen: Float[Tensor, "r k D"],
    mask: Bool[Tensor, "r k"],
) -> Float[Tensor, "r D"]:
    """`Block.attend` of one token, without a key or a value of anything `seen`.

    A head's scores q . (K x + b) are (q K) . x but for what all of them share, and its mixture of
    values is V times the same mixture of what they are made of.
    """
    layer, heads = block.queries_keys_values, block.heads
    of_query, of_keys, of_values = layer.weight.unflatten(0, (3, heads, -1))
    query_bias, _, value_bias = layer.bias.unflatten(0, (3, heads, -1))
    normed = block.attention_norm(asking)
    query = torch.einsum("rD,hdD->rhd", normed, of_query) + query_bias
    scores = torch.einsum("rhd,hdD->rhD", query, of_keys) @ seen.mT / query.shape[-1] ** 0.5
    weights = scores.masked_fill(~mask[:, None], -torch.inf).softmax(-1)
    mixed = torch.einsum("rhD,hdD->rhd", weights @ seen, of_values) + value_bias
    return block.joined(mixed.flatten(1))
