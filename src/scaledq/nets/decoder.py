"""How a transformer acts step by step without reading again what it has read.

Keys and values of every token that a later one can see are kept by place, for R rows that each may
be at another step. Shapes: R rows, r of them, T steps, L tokens, D width, A actions, Z returns.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from scaledq.nets.transformer import Block, Transformer

Choose = Callable[[Float[Tensor, "r Z"]], Int[Tensor, "r"]]
"""Picks each row's return from its logits."""


class Decoder:
    """A transformer and what it remembers of R windows.

    It answers what the whole window's pass would, to rounding; only the last layer's one token that
    is asked for is computed to its end.
    """

    def __init__(self, net: Transformer, rows: int):
        self.net, self.layout = net, net.layout
        like = net.positions
        depth = net.cfg.width // net.cfg.heads
        shape = (len(net.blocks), 2, rows, self.layout.length, net.cfg.heads, depth)
        self._kept = torch.zeros(shape, dtype=like.dtype, device=like.device)
        self._before: Tensor | None = None  # [R S-1 *frame]: what an encoder sees again

    @property
    def device(self) -> torch.device:
        return self._kept.device

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
            self._before = frames.new_zeros(self._kept.shape[2], before, *picture)
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
        length = int(at.max()) + 1
        mask = self.net.mask[at, :length][:, None]
        every = len(rows) == self._kept.shape[2]
        for number, block in enumerate(self.net.blocks):
            last = number == len(self.net.blocks) - 1
            queries, keys, values = _parts(block, x, last=last)  # pyright: ignore[reportArgumentType]
            for kept, new in zip(self._kept[number], (keys, values), strict=True):
                kept[rows[:, None], at] = new
            seen = self._kept[number, :, :, :length]
            seen = seen if every else seen[:, rows]
            if last:
                x, mask = x[:, -1:], mask[:, :, -1:]
            x = x + block.attend(queries, *seen, mask)  # pyright: ignore[reportCallIssue]
            x = x + block.widening(block.widening_norm(x))  # pyright: ignore[reportCallIssue]
        return self.net.norm(x[:, -1])


def _parts(block: Block, x: Float[Tensor, "r l D"], *, last: bool) -> tuple[Tensor, ...]:
    """Queries (of the last token alone, where nobody asks for more), keys and values."""
    normed, layer = block.attention_norm(x), block.queries_keys_values
    if not last:
        return layer(normed).unflatten(-1, (3, block.heads, -1)).unbind(2)
    width = x.shape[-1]
    queries = F.linear(normed[:, -1:], layer.weight[:width], layer.bias[:width])
    rest = F.linear(normed, layer.weight[width:], layer.bias[width:])
    keys, values = rest.unflatten(-1, (2, block.heads, -1)).unbind(2)
    return queries.unflatten(-1, (block.heads, -1)), keys, values
