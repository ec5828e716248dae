"""The decision transformer's training step and its decisions in play, on this machine.

    python benchmarks/transformer.py             a step of the 10 M model against a bare loop;
                                                 bar: 0.95
    python benchmarks/transformer.py --play      the 40 M model in 16 environments: decisions with
                                                 what it remembers against reading whole windows;
                                                 bar: 3 times. --keep 3 for the published rule
                                                 alone

Whole windows are read as the released notebook does: one pass to draw the return, one to act. With
`--play`, each way's arithmetic is counted, too: what the clock cannot beat by much.

All times are medians of interleaved repeats in one process. `OMP_NUM_THREADS=1 ... --clock cpu`
counts the process's own time where others use the CPU, too. Before anything is timed, losses and
decisions are compared.
"""

import argparse
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from scaledq.core import atari
from scaledq.core.batch import Windows
from scaledq.nets.decoder import Decoder
from scaledq.nets.transformer import Transformer
from scaledq.play.envs import Steps
from scaledq.play.sequence import SequencePolicy, expert_return
from scaledq.run import assemble
from scaledq.run.config import RunConfig
from scaledq.study.recipes import dt, dt_small
from scaledq.study.scales import PAPER
from timing import alternate, median, report

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
TASKS = ("Breakout", "Pong", "Seaquest", "Freeway")
STEPS, ROWS, KAPPA = 4, 16, 10.0
Weights = dict[str, Tensor]


def random_windows(cfg: RunConfig) -> Windows:
    torch.manual_seed(0)
    shape = (cfg.batch_size, STEPS)
    return Windows(
        frames=torch.randint(256, (*shape, 84, 84), dtype=torch.uint8),
        task=torch.randint(len(cfg.tasks), shape[:1]),
        action=torch.randint(3, shape),
        reward=torch.randint(-1, 2, shape).float(),
        return_to_go=torch.randint(-30, 120, shape[:1]).float(),
        steps=torch.full(shape[:1], STEPS),
    )


class Bare:
    """The same model and losses as one writes them down in a notebook, from the same weights."""

    def __init__(self, cfg: RunConfig, net: Transformer, batch: Windows):
        self.weights: Weights = {
            name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()
        }
        self.heads, self.layers = net.cfg.heads, net.cfg.layers
        self.dropout, self.clip = net.cfg.dropout, cfg.optim.clip
        self.tokens, self.available = net.tokens, net.available
        self.batch = batch
        self.mask = bare_mask()
        self.optimizer = torch.optim.Adam(
            self.weights.values(), lr=cfg.optim.lr, eps=cfg.optim.eps, fused=True
        )

    def linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return F.layer_norm(x, x.shape[-1:], weight, bias)

    def body(self, x: Tensor, dropout: float) -> Tensor:
        batch, length, width = x.shape
        for layer in range(self.layers):
            at = f"blocks.{layer}"
            y = self.linear(self.norm(x, f"{at}.attention_norm"), f"{at}.queries_keys_values")
            q, k, v = y.view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
            y = self.linear(y.transpose(1, 2).reshape(batch, length, width), f"{at}.joined")
            x = x + F.dropout(y, dropout)
            y = self.linear(self.norm(x, f"{at}.widening_norm"), f"{at}.widening.0")
            y = self.linear(F.gelu(y, approximate="tanh"), f"{at}.widening.2")
            x = x + F.dropout(y, dropout)
        return self.norm(x, "norm")

    def loss(self, dropout: float) -> Tensor:
        b, w = self.batch, self.weights
        images = F.unfold(b.frames.flatten(0, 1)[:, None].float() / 255, 14, stride=14)
        images = self.linear(images.transpose(1, 2), "image.projection") + w["image.places"]
        words = self.tokens[b.task].gather(1, b.action)
        paid = b.reward.sign().long() + 1
        hoped = b.return_to_go.clamp(-20, 99).long() + 20
        returns = torch.zeros(len(b), STEPS, w["returns"].shape[1])
        returns[:, 0] = w["returns"][hoped]
        x = torch.cat(
            [
                images.unflatten(0, (-1, STEPS)),
                returns[:, :, None],
                w["actions"][words][:, :, None],
                w["rewards"][paid][:, :, None],
            ],
            2,
        )
        x = self.body(x.flatten(1, 2) + w["positions"], dropout).unflatten(1, (STEPS, -1))
        logits = self.linear(x[:, :, 36], "action_head")
        own = torch.zeros(len(self.tokens), logits.shape[-1], dtype=torch.bool)
        for task, (tokens, has) in enumerate(zip(self.tokens, self.available, strict=True)):
            own[task, tokens[has]] = True
        logits = logits.masked_fill(~own[b.task][:, None], -torch.inf)
        return (
            F.cross_entropy(logits.flatten(0, 1), words.flatten())
            + F.cross_entropy(self.linear(x[:, :, 37], "reward_head").flatten(0, 1), paid.flatten())
            + F.cross_entropy(self.linear(x[:, 0, 35], "return_head"), hoped)
        )

    def step(self) -> None:
        loss = self.loss(self.dropout)
        self.optimizer.zero_grad()
        loss.backward()
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.weights.values(), self.clip)
        self.optimizer.step()


def bare_mask() -> Tensor:
    mask = torch.ones(39 * STEPS, 39 * STEPS, dtype=torch.bool).tril()
    for step in range(STEPS):
        at = 39 * step
        mask[at : at + 36, at : at + 36] = True
        if step:
            mask[:, at + 36] = False
    return mask


def train(measure: Callable[..., list[list[float]]], batch_size: int) -> dict[str, Any]:
    """With Adam in both: LAMB's own cost is told beside it."""
    cfg = replace(dt_small(PAPER), tasks=TASKS, batch_size=batch_size)
    cfg = replace(cfg, optim=replace(cfg.optim, rule="adam"))
    tasks = tuple(atari.task(name) for name in TASKS)
    batch = random_windows(cfg)
    learner = assemble.learner(cfg, tasks, device="cpu")
    net = learner.net
    assert isinstance(net, Transformer)
    bare = Bare(cfg, net, batch)
    net.eval()
    ours, theirs = learner.losses(batch)[0].mean(), bare.loss(0.0)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    net.train()
    lamb = replace(cfg, optim=replace(cfg.optim, rule="lamb"))
    other = assemble.learner(lamb, tasks, device="cpu")
    works = (lambda: learner.update(batch), bare.step, lambda: other.update(batch))
    mine, plain, larger = measure(*works)
    ratios = [b / a for a, b in zip(mine, plain, strict=True)]
    return {
        "ratio": round(median(ratios), 3),
        "windows_per_s": round(batch_size / median(mine), 2),
        "bare_windows_per_s": round(batch_size / median(plain), 2),
        "lamb_windows_per_s": round(batch_size / median(larger), 2),
        "parameters": sum(p.numel() for p in net.parameters()),
        "batch_size": batch_size,
    }


class Reading:
    """Decides by reading whole windows: once for the return where a window begins, once to act."""

    def __init__(self, net: Transformer, *, twice: bool = False):
        self.net, self.twice = net, twice

    @torch.inference_mode()
    def decide(self, inputs: tuple[Tensor, ...], uniform: np.ndarray, hoped: Tensor | None) -> Any:
        if hoped is None or self.twice:
            blank = torch.zeros(ROWS).long()
            logits = self.net(*inputs, blank)["return"].double().numpy()
            hoped = torch.from_numpy(expert_return(logits, uniform, kappa=KAPPA))
        out = self.net(*inputs, hoped)
        policy = out["policy"][:, -1].masked_fill(~out["available"], -torch.inf)
        return policy.softmax(-1), hoped


class Game:
    """An endless game in which nothing that is done matters."""

    def __init__(self, tasks: int):
        rng = np.random.default_rng(0)
        self.frames = rng.integers(256, size=(ROWS, 64, 84, 84)).astype(np.uint8)
        self.task = np.arange(ROWS) % tasks
        self.actions = rng.integers(3, size=(ROWS, 64))
        self.reward = rng.integers(-1, 2, size=(64, ROWS)).astype(np.float32)
        self.uniform = rng.random((64, ROWS))

    def steps(self, at: int) -> Steps:
        never = np.zeros(ROWS, bool)
        return Steps(self.frames[:, at], self.reward[at], never, never)

    def window(self, at: int, length: int) -> tuple[Tensor, ...]:
        part = slice(at + 1 - length, at + 1)
        paid = np.sign(self.reward[part].T).astype(np.int64) + 1
        arrays = (self.frames[:, part], self.task, self.actions[:, part], paid)
        return tuple(torch.from_numpy(np.ascontiguousarray(a)) for a in arrays)


def gflops(work: Callable[[], object]) -> float:
    """The arithmetic of one call, in 10^9 multiplications and additions of products."""
    attention = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}
    with FlopCounterMode(display=False, custom_mapping=attention) as counter:
        work()
    return counter.get_total_flops() / 1e9


def _attention(q: list[int], k: list[int], *_: Any, **__: Any) -> int:
    return 4 * math.prod(q) * k[-2]


def play(
    measure: Callable[..., list[list[float]]], rounds: int, keeps: Sequence[int]
) -> dict[str, Any]:
    """For each `keep`, a round of decisions from one beginning window to the next."""
    cfg = replace(dt(PAPER), tasks=TASKS)
    net = assemble.network(cfg, tuple(atari.task(name) for name in TASKS)).eval()
    assert isinstance(net, Transformer)
    game, found = Game(len(TASKS)), {}
    for keep in keeps:
        found[f"keep {keep}"] = _kept(measure, net, game, keep=keep, rounds=rounds)
    return {**found, "parameters": sum(p.numel() for p in net.parameters()), "rows": ROWS}


def _kept(
    measure: Callable[..., list[list[float]]],
    net: Transformer,
    game: Game,
    *,
    keep: int,
    rounds: int,
) -> dict[str, Any]:
    policy = SequencePolicy(
        lambda rows: Decoder(net, rows), TASKS, context=STEPS, kappa=KAPPA, keep=keep
    )
    policy.start(ROWS)
    obs = np.zeros((ROWS, STEPS, 84, 84), np.uint8)
    clocked = {"at": 0}

    def advance() -> np.ndarray:
        at = clocked["at"]
        obs[:, :-1], obs[:, -1] = obs[:, 1:].copy(), game.frames[:, at]
        values = policy.appraise(obs, game.task, game.uniform[at]).values
        policy.note(game.actions[:, at], game.steps(at))
        clocked["at"] = (at + 1) % 64
        return values

    for _ in range(STEPS):
        advance()  # now every window is full
    length = STEPS - keep
    beginnings = clocked["at"]

    def remembering() -> list[np.ndarray]:
        return [advance() for _ in range(length)]

    def reading(*, twice: bool) -> list[Tensor]:
        reader, hoped, out = Reading(net, twice=twice), None, []
        for number in range(length):
            whole = STEPS if twice else keep + 1 + number
            inputs = game.window(beginnings + number, whole)
            probs, hoped = reader.decide(inputs, game.uniform[beginnings], hoped)
            out.append(probs)
        return out

    clocked["at"] = beginnings
    for mine, theirs in zip(remembering(), reading(twice=False), strict=True):
        np.testing.assert_allclose(mine, theirs.numpy(), atol=1e-4)
    works = (remembering, partial(reading, twice=False), partial(reading, twice=True))
    counted, *others = map(gflops, works)
    clocked["at"] = beginnings
    mine, same, whole = measure(*works, repeats=rounds)
    return {
        "gflop_a_decision": round(counted / length / ROWS, 2),
        "times_as_little": [round(other / counted, 2) for other in others],
        "decisions_per_s": round(ROWS * length / median(mine), 2),
        "times_as_fast": round(median([b / a for a, b in zip(mine, same, strict=True)]), 2),
        "against_two_whole_passes": round(
            median([b / a for a, b in zip(mine, whole, strict=True)]), 2
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--play", action="store_true")
    parser.add_argument("--keep", type=int, nargs="+", default=[3, 2, 1, 0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    measure = partial(alternate, clock=CLOCKS[options.clock])
    if options.play:
        name, numbers = "transformer play", play(measure, options.repeats, options.keep)
    else:
        timed = partial(measure, repeats=options.repeats)
        name, numbers = "transformer", train(timed, options.batch_size)
    threads, load = torch.get_num_threads(), round(os.getloadavg()[0], 1)
    report(name, **numbers, clock=options.clock, threads=threads, load=load)


if __name__ == "__main__":
    main()
