"""The one training step: state, schedules, and what a poisoned batch may not do."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from scaledq.core.errors import ConfigError, DivergedError, RunError
from scaledq.learn.bc import BehaviourCloning
from scaledq.learn.learner import Learner
from scaledq.learn.objective import ScaledQL
from scaledq.learn.optim import OptimConfig
from scaledq.learn.td import MSE, reward_deviation, reward_moments


@pytest.fixture
def make(table):
    def build(objective=None, **optim) -> Learner:
        objective = objective or ScaledQL()
        net = table(objective.heads)
        return Learner(net, objective, OptimConfig(**optim), tasks=2)

    return build


def weights(learner: Learner) -> list[torch.Tensor]:
    return [p.detach().clone() for p in learner.net.parameters()]


def part(batch, step: int):
    """A different batch for each step: the rows that step names."""
    rows = torch.randint(len(batch), (8,), generator=torch.Generator().manual_seed(step))
    names = ("frames", "task", "action", "reward", "step_reward", "discount", "steps")
    return replace(batch, **{name: getattr(batch, name)[rows] for name in names})


OBJECTIVES = (ScaledQL(), ScaledQL(td=MSE()), BehaviourCloning())


@pytest.mark.parametrize("objective", OBJECTIVES, ids=["c51", "unitary", "bc"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_a_loaded_learner_continues_bit_for_bit(world, make, objective, weight_decay) -> None:
    options = {"lr": 0.1, "target_every": 3, "warmup": 20, "weight_decay": weight_decay}
    straight, first, second = (make(objective, **options) for _ in range(3))
    for step in range(10):
        straight.update(part(world.batch, step))
    for step in range(4):
        first.update(part(world.batch, step))
    state = {k: v if isinstance(v, int) else v.clone() for k, v in first.state_dict().items()}
    second.load_state_dict(state)
    for step in range(4, 10):
        second.update(part(world.batch, step))
    a, b = straight.state_dict(), second.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(torch.as_tensor(a[k]), torch.as_tensor(b[k])) for k in a)


def test_a_moving_weight_is_that_of_the_update(world, make) -> None:
    """Update by update, its learner takes the step that a fixed weight would."""
    moving = ScaledQL(alpha=1.0, alpha_steps=3)
    learner = make(moving, lr=0.1, target_every=2)
    for step, alpha in enumerate((1.0, 2 / 3, 1 / 3, 0.0, 0.0)):
        twin = make(ScaledQL(alpha=alpha), lr=0.1, target_every=2)
        twin.load_state_dict({k: copy.deepcopy(v) for k, v in learner.state_dict().items()})
        for each in (learner, twin):
            each.update(part(world.batch, step))
        pairs = zip(weights(learner), weights(twin), strict=True)
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)
    with pytest.raises(ConfigError, match="compiled"):
        Learner(learner.net, moving, OptimConfig(), tasks=2, compiled=True)


def test_state_is_flat_named_and_ready_for_safetensors(world, make, tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    learner = make(ScaledQL(td=MSE()))
    learner.update(world.batch)
    state = learner.state_dict()
    assert {"step", "net.tables.q", "target.tables.q", "optimizer.1.exp_avg"} <= state.keys()
    assert "reward_scale.moments" in state
    tensors = {k: v for k, v in state.items() if isinstance(v, torch.Tensor)}
    save_file(tensors, tmp_path / "state.safetensors")
    learner.load_state_dict({**load_file(tmp_path / "state.safetensors"), "step": 1})
    assert "target.tables.policy" not in make(BehaviourCloning()).state_dict()


def test_a_state_of_another_objective_is_refused(make) -> None:
    with pytest.raises(RunError, match=r"lacks 'net.tables.policy'"):
        make(BehaviourCloning()).load_state_dict(make().state_dict())


def test_loading_leaves_the_given_state_alone(world, make) -> None:
    first, second = make(), make()
    first.update(world.batch)
    state = {k: v if isinstance(v, int) else v.clone() for k, v in first.state_dict().items()}
    kept = {k: v if isinstance(v, int) else v.clone() for k, v in state.items()}
    second.load_state_dict(state)
    second.update(world.batch)
    assert all(torch.equal(torch.as_tensor(state[k]), torch.as_tensor(kept[k])) for k in kept)


def test_a_step_is_adam_on_the_mean_loss(world, make) -> None:
    learner, objective = make(lr=0.01), ScaledQL()
    reference = make().net
    adam = torch.optim.Adam(reference.parameters(), lr=0.01, eps=3.125e-4)
    for step in range(5):
        batch = part(world.batch, step)
        scalars = learner.update(batch)
        loss = objective(reference, make().net, batch)[0].mean()
        adam.zero_grad()
        loss.backward()
        norm = torch.cat([p.grad.flatten() for p in reference.parameters() if p.grad is not None])
        adam.step()
        torch.testing.assert_close(scalars["loss"], loss.detach())
        torch.testing.assert_close(scalars["grad_norm"], norm.norm())
        assert scalars.keys() == {"loss", "grad_norm", "td", "cql_gap"}
    for mine, theirs in zip(learner.net.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_targets_are_copied_whole_every_so_many_steps(world, make) -> None:
    learner = make(target_every=3)
    target = learner.target_net.tables["q"]
    start = target.clone()
    for step in range(1, 4):
        learner.update(world.batch)
        assert torch.equal(target, start) == (step < 3)
    assert torch.equal(target, learner.net.tables["q"])


def test_an_averaged_target_moves_its_share_every_step(world, make) -> None:
    learner = make(target_every=1, target_fraction=0.1)
    start = weights(learner)
    learner.update(world.batch)
    now = weights(learner)
    assert learner.target_net is not None
    for old, new, target in zip(start, now, learner.target_net.parameters(), strict=True):
        torch.testing.assert_close(target, old + 0.1 * (new - old))


def test_warm_up_is_linear_and_starts_above_zero(make) -> None:
    optim = OptimConfig(lr=1.0, warmup=4)
    assert [optim.lr_at(step) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]


@pytest.mark.parametrize("rule", ["adam", "lamb"])
def test_weights_move_by_the_book_while_the_rate_warms_up(world, make, rule) -> None:
    """AdamW and LAMB (both with decay) in plain numbers, from the gradients of each step."""
    lr, eps, decay, warmup = 0.1, 1e-3, 0.01, 4
    options = {"rule": rule, "lr": lr, "eps": eps, "weight_decay": decay, "warmup": warmup}
    learner = make(BehaviourCloning(), **options)
    expected = [w.double().numpy() for w in weights(learner)]
    moments = [(np.zeros_like(w), np.zeros_like(w)) for w in expected]
    for t in range(1, 7):
        learner.update(part(world.batch, t))
        rate = lr * min(t / warmup, 1)
        for index, parameter in enumerate(learner.net.parameters()):
            weight, (mean, square) = expected[index], moments[index]
            gradient = np.zeros_like(weight)
            if parameter.grad is not None:
                gradient = parameter.grad.double().numpy()
            mean += 0.1 * (gradient - mean)
            square += 0.001 * (gradient**2 - square)
            move = mean / (1 - 0.9**t) / (np.sqrt(square / (1 - 0.999**t)) + eps)
            move = move + decay * weight
            if rule == "lamb":
                size, length = np.linalg.norm(weight), np.linalg.norm(move)
                move = move * (size / length if size > 0 and length > 0 else 1.0)
            if parameter.grad is not None:
                weight -= rate * move
        for weight, mine in zip(expected, weights(learner), strict=True):
            np.testing.assert_allclose(mine.numpy(), weight, rtol=1e-4, atol=1e-5)


def test_a_clipped_gradient_keeps_its_direction(world, make) -> None:
    free, short = make(), make(clip=1e-3)
    norms = [learner.update(world.batch)["grad_norm"] for learner in (free, short)]
    torch.testing.assert_close(norms[0], norms[1])  # what is reported is the norm before
    a, b = (learner.net.tables["q"].grad for learner in (free, short))
    torch.testing.assert_close(b, a * (1e-3 / norms[0]), rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("objective", [ScaledQL(), ScaledQL(td=MSE())], ids=["c51", "unitary"])
def test_a_poisoned_batch_never_reaches_the_weights(world, make, objective) -> None:
    learner, clean = make(objective, lr=0.1), make(objective, lr=0.1)
    nan = torch.full_like(world.batch.reward, float("nan"))
    poisoned = replace(world.batch, reward=nan, step_reward=nan)
    for step in range(6):
        learner.update(poisoned if step in (2, 4) else world.batch)
        if step not in (2, 4):
            clean.update(world.batch)
    for mine, theirs in zip(weights(learner), weights(clean), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    torch.testing.assert_close(learner.reward_moments, clean.reward_moments, rtol=0, atol=0)
    with pytest.raises(DivergedError, match=r"step 2: the loss is not finite.*optim.lr"):
        learner.check()
    clean.check()


def test_an_exploding_gradient_with_a_finite_loss_is_named(world, make) -> None:
    learner = make(BehaviourCloning())
    learner.update(world.batch)
    before = weights(learner)
    learner.net.tables["policy"].register_hook(lambda grad: grad * float("inf"))
    learner.update(world.batch)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(learner), strict=True))
    with pytest.raises(DivergedError, match=r"step 1: the gradient norm"):
        learner.check()


def test_unitary_scaling_divides_by_the_running_deviation_of_each_task(world, make) -> None:
    learner = make(ScaledQL(td=MSE(), alpha=0.0))
    seen: list[list[float]] = [[], []]
    for step in range(5):
        batch = part(world.batch, step)
        for task, reward in zip(batch.task.tolist(), batch.step_reward.tolist(), strict=True):
            seen[task].append(reward)
        learner.update(batch)
    expected = [torch.tensor(r, dtype=torch.float64).std(correction=0) for r in seen]
    torch.testing.assert_close(learner.reward_scale(), torch.stack(expected))


def test_the_mean_is_not_subtracted_and_task_losses_are_summed(world, make) -> None:
    """A network of zeros and discount 0 loses (r / deviation)^2, and its gradient is the sum's."""
    learner = make(ScaledQL(td=MSE(), alpha=0.0))
    batch = replace(world.batch, discount=torch.zeros(15))
    scale = torch.stack(
        [batch.reward[batch.task == t].double().std(correction=0).float() for t in (0, 1)]
    )
    scaled = batch.reward / scale[batch.task]
    loss = learner.update(batch)["loss"]
    torch.testing.assert_close(loss, (scaled**2).mean())
    grad = learner.net.tables["q"].grad
    expected = -2 * scaled / len(batch) * 2
    torch.testing.assert_close(
        grad[batch.task, batch.obs[:, 0, 0].long(), batch.action, 0], expected
    )


def test_deviation_is_one_until_rewards_vary() -> None:
    moments = reward_moments(
        torch.tensor([2.0, 2.0, 0.0, 1.0]), torch.tensor([0, 0, 2, 2]), tasks=3
    )
    assert reward_deviation(moments).tolist() == [1.0, 1.0, 0.5]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"lr": 0.0}, "lr"),
        ({"eps": -1.0}, "eps"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"clip": 0.0}, "clip"),
        ({"target_every": 0}, "target_every"),
        ({"target_fraction": 0.0}, "target_fraction"),
        ({"warmup": -1}, "warmup"),
    ],
)
def test_an_impossible_optimiser_is_refused(fields: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=f"optim.*{named}"):
        OptimConfig(**fields)


def test_a_frozen_network_is_refused(make, table) -> None:
    net = table(ScaledQL().heads).requires_grad_(False)
    with pytest.raises(ConfigError, match="frozen"):
        Learner(net, ScaledQL(), OptimConfig(), tasks=2)
