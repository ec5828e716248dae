"""How a step is computed changes last bits, never what is learnt; and it survives a resume."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from scaledq.core.batch import Batch
from scaledq.core.errors import ConfigError, RunError
from scaledq.core.task import Task
from scaledq.learn.bc import Loss
from scaledq.learn.learner import Learner
from scaledq.learn.objective import ScaledQL
from scaledq.nets.head import NeckConfig
from scaledq.nets.resnet import ResNetConfig
from scaledq.run import assemble
from scaledq.run.compute import Compute, feed, prepared
from scaledq.run.config import RunConfig

TASKS = (Task(name="a", actions=3, frame_shape=(12, 12)), Task(name="b", actions=2))
CFG = RunConfig(
    tasks=("a", "b"),
    encoder=ResNetConfig(depth=8, width=8, stem="small"),
    neck=NeckConfig(width=16, embeddings=2),
    objective=ScaledQL(double=True),
    batch_size=6,
)


def batch_of(step: int) -> Batch:
    rng = torch.Generator().manual_seed(step)
    return Batch(
        frames=torch.randint(256, (6, 7, 12, 12), generator=rng, dtype=torch.uint8),
        task=torch.tensor([0, 1, 0, 0, 1, 1]),
        action=torch.randint(2, (6,), generator=rng),
        reward=torch.randn(6, generator=rng),
        step_reward=torch.zeros(6),
        discount=torch.full((6,), 0.9),
        steps=torch.full((6,), 3),
    )


def learner(compute: Compute) -> Learner:
    tasks = (TASKS[0], replace(TASKS[1], frame_shape=(12, 12)))
    return assemble.learner(replace(CFG, compute=compute), tasks, device="cpu")


def trained(chosen: Learner, steps: range) -> dict[str, Tensor]:
    for step in steps:
        chosen.update(batch_of(step))
    return {k: v.clone() for k, v in chosen.state_dict().items() if isinstance(v, Tensor)}


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_resumed_learner_is_the_one_that_never_stopped(channels_last: bool) -> None:
    compute = Compute(channels_last=channels_last)
    never = trained(learner(compute), range(6))
    first, second = learner(compute), learner(compute)
    state = trained(first, range(3))
    second.load_state_dict({**state, "step": first.step})
    resumed = trained(second, range(3, 6))
    assert all(torch.equal(never[name], resumed[name]) for name in never)


def test_moments_lie_in_memory_as_their_weights_do_after_a_resume() -> None:
    """Otherwise the fused kernel pairs weights with other weights' moments."""
    compute = Compute(channels_last=True)
    first, second = learner(compute), learner(compute)
    second.load_state_dict({**trained(first, range(1)), "step": first.step})
    strided = 0
    for weight, slots in second.optimizer.state.items():
        assert slots["exp_avg"].stride() == weight.stride() == slots["exp_avg_sq"].stride()
        strided += not weight.is_contiguous()
    assert strided > 3


@pytest.mark.parametrize(
    "name", ["net.trunk.layers.0.weight", "optimizer.1.exp_avg", "optimizer.99.step"]
)
def test_a_state_of_other_shapes_is_refused_before_anything_changes(name: str) -> None:
    first, second = learner(Compute()), learner(Compute())
    state = {**trained(first, range(1)), "step": first.step, name: torch.zeros(7, 7)}
    before = {k: v.clone() for k, v in second.net.state_dict().items()}
    with pytest.raises(RunError, match=f"{name}.* has shape .7, 7., here it has"):
        second.load_state_dict(state)
    assert all(torch.equal(before[k], v) for k, v in second.net.state_dict().items())


def test_layout_changes_nothing_but_rounding() -> None:
    """Two orders of a float32 sum of a few thousand terms: relative 1e-5, through three steps."""
    plain, other = (trained(learner(Compute(channels_last=c)), range(3)) for c in (False, True))
    assert plain.keys() == other.keys()
    for name in plain:
        assert plain[name].shape == other[name].shape
        torch.testing.assert_close(plain[name], other[name], rtol=1e-3, atol=1e-5)


def test_bf16_keeps_weights_features_and_losses_in_float32() -> None:
    """bf16 has 8 bits: the loss is within 2^-7 of the float32 one; master weights stay float32."""
    plain, short = learner(Compute()), learner(Compute(precision="bf16"))
    batch = batch_of(0)
    outputs = short.net(batch.obs, batch.task)
    assert {outputs[name].dtype for name in ("features", "q")} == {torch.float32}
    hooked: list[torch.dtype] = []
    first = next(m for m in short.net.modules() if isinstance(m, torch.nn.Conv2d))
    first.register_forward_hook(lambda module, args, out: hooked.append(out.dtype))
    here, there = plain.update(batch)["loss"], short.update(batch)["loss"]
    assert set(hooked) == {torch.bfloat16}
    assert not torch.equal(here, there)
    torch.testing.assert_close(here, there, rtol=2**-7, atol=0)
    assert {p.dtype for p in short.net.parameters()} == {torch.float32}


def test_bf16_wants_a_network_that_says_where() -> None:
    with pytest.raises(ConfigError, match="Linear has no bf16 parts"):
        prepared(torch.nn.Linear(1, 1), Compute(precision="bf16"), device="cpu")


def test_the_whole_loss_is_one_graph() -> None:
    """What torch.compile cannot trace whole, it leaves to the host in pieces."""
    # In a process of its own: the runtime type checks of the tests are not to be traced.
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def trace() -> None:
    chosen, batch = learner(Compute(channels_last=True, precision="bf16")), batch_of(0)
    lose: Callable[..., Loss] = chosen.objective.__call__
    whole = torch.compile(lose, backend="eager", fullgraph=True)
    loss, terms = whole(chosen.net, chosen.target_net, batch)
    expected, same = chosen.losses(batch)
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-3)
    assert terms.keys() == same.keys()


def test_the_feed_hands_on_every_batch_in_order() -> None:
    batches = [batch_of(step) for step in range(3)]
    fed = list(feed(iter(batches), "cpu"))
    assert all(torch.equal(a.frames, b.frames) for a, b in zip(batches, fed, strict=True))


def test_the_defaults_leave_a_run_its_name() -> None:
    assert replace(CFG, compute=Compute()).folder == CFG.folder
    assert replace(CFG, compute=Compute(channels_last=True)).folder != CFG.folder


if __name__ == "__main__":
    trace()
