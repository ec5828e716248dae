"""Masked autoencoding: what is hidden, what it costs, and that it learns to see.

Each half of a picture has a shade of its own, over a pattern: what is visible tells what is not.
"""

import numpy as np
import pytest
import torch
from torch import Tensor

from scaledq.core.batch import Batch
from scaledq.core.errors import ConfigError
from scaledq.core.outputs import Outputs
from scaledq.learn.learner import Learner
from scaledq.learn.mae import MAE, normalised
from scaledq.learn.optim import OptimConfig
from scaledq.nets.mae import MaskedAutoencoder, unshuffled
from scaledq.nets.vit import ViT, ViTConfig, patches

SIDE, STACK, PATCH = 24, 2, 6


def shades(count: int, *, seed: int, noise: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    halves = rng.uniform(0, 195, (count, 1, 2)).repeat(SIDE // 2, axis=-1)
    places = np.arange(SIDE)
    picture = halves + 30 + 30 * np.sin(places[:, None] * places / 20)
    still = torch.from_numpy(picture.astype(np.uint8))[:, None].expand(-1, STACK + 1, -1, -1)
    ones, zeros = torch.ones(count), torch.zeros(count)
    counts = torch.zeros(count, dtype=torch.long)
    return Batch(
        frames=still, task=counts, action=counts, reward=zeros, step_reward=zeros,
        discount=ones, steps=counts + 1, stack=STACK, noise=noise,
    )  # fmt: skip


def autoencoder(*, mask: float = 0.75, width: int = 32, seed: int = 0) -> MaskedAutoencoder:
    torch.manual_seed(seed)
    vit = ViT(ViTConfig(patch=PATCH, width=width, depth=2, heads=4), (STACK, SIDE, SIDE))
    return MaskedAutoencoder(vit, mask=mask, width=32, depth=1, heads=4)


def test_unshuffling_is_exact() -> None:
    tokens = torch.randn(3, 5, 7)
    order = torch.stack([torch.randperm(12) for _ in range(3)])
    filler = torch.full((7,), -1.0)
    every = unshuffled(tokens, filler, order)
    for row in range(3):
        for place in range(12):
            rank = order[row].tolist().index(place)
            expected = tokens[row, rank] if rank < 5 else filler
            assert torch.equal(every[row, place], expected)


@pytest.mark.parametrize(("mask", "hidden"), [(0.75, 12), (0.5, 8), (0.9, 14)])
def test_every_picture_hides_the_same_number_of_patches(mask: float, hidden: int) -> None:
    net = autoencoder(mask=mask)
    first, again, other = (
        net(shades(9, seed=0).obs, torch.zeros(9, dtype=torch.long), noise=n) for n in (3, 3, 4)
    )
    assert (first["hidden"].sum(1) == hidden).all()
    assert torch.equal(first["hidden"], again["hidden"])
    assert not torch.equal(first["hidden"], other["hidden"])
    assert len({tuple(row) for row in first["hidden"].tolist()}) > 1, "each row draws its own"


def test_what_is_hidden_is_not_seen() -> None:
    """Changing hidden pixels changes no prediction; changing a visible one does."""
    net, batch = autoencoder(), shades(1, seed=0)
    before = net(batch.obs, batch.task, noise=1)
    cut = patches(batch.obs.float(), PATCH)
    for hidden in (True, False):
        changed = cut.clone()
        changed[0, before["hidden"][0] == hidden] += 20
        after = net(net.picture(changed), batch.task, noise=1)
        base = net(net.picture(cut), batch.task, noise=1)
        assert torch.equal(after["predicted"], base["predicted"]) == hidden


def test_the_loss_is_the_mean_error_of_hidden_patches_alone() -> None:
    torch.manual_seed(0)
    seen, predicted = torch.rand(2, 4, 6), torch.randn(2, 4, 6, requires_grad=True)
    hidden = torch.tensor([[True, False, True, True], [False, True, False, False]])

    def net(obs: Tensor, task: Tensor, *, noise: int) -> Outputs:
        return {"patches": seen, "predicted": predicted, "hidden": hidden}

    for normalise in (False, True):
        loss, _ = MAE(normalise=normalise)(net, net, shades(2, seed=0))
        for row in range(2):
            errors = []
            for place in range(4):
                target = seen[row, place]
                if normalise:
                    target = (target - target.mean()) / (target.var() + 1e-6) ** 0.5
                if hidden[row, place]:
                    errors.append(((predicted[row, place] - target) ** 2).mean())
            torch.testing.assert_close(loss[row], torch.stack(errors).mean())
        (gradient,) = torch.autograd.grad(loss.sum(), predicted)
        assert torch.equal((gradient != 0).all(-1), hidden)
        assert torch.equal((gradient != 0).any(-1), hidden)


def test_a_patch_of_one_colour_asks_for_nothing() -> None:
    assert torch.equal(normalised(torch.full((1, 2, 9), 0.7)).abs() < 1e-3, torch.ones(1, 2, 9) > 0)


def test_it_learns_to_see_what_a_mean_picture_cannot_tell() -> None:
    """Held-out pictures, hidden patches only."""
    net = autoencoder()
    optim = OptimConfig(lr=3e-3, eps=1e-8, warmup=20)
    learner = Learner(net, MAE(normalise=False), optim, tasks=1)
    mean = torch.zeros(STACK, SIDE, SIDE)
    steps = 200
    for step in range(steps):
        batch = shades(32, seed=step, noise=step)
        learner.update(batch)
        mean += batch.obs.float().mean(0) / 255 / steps
    learner.check()
    batch = shades(64, seed=10_000, noise=7)
    with torch.no_grad():
        outputs = net(batch.obs, batch.task, noise=batch.noise)
        loss = MAE(normalise=False)(net, net, batch)[0].mean()
    baseline = (patches(mean[None], PATCH) - outputs["patches"]) ** 2
    assert loss < 0.5 * baseline[outputs["hidden"]].mean()


def test_a_mask_that_hides_nothing_or_everything_is_refused() -> None:
    for mask in (0.01, 0.99):
        with pytest.raises(ConfigError, match=r"objective\.mask"):
            autoencoder(mask=mask)
    with pytest.raises(ConfigError, match=r"objective\.mask"):
        MAE(mask=1.0)
    with pytest.raises(ConfigError, match=r"objective\.decoder_depth"):
        MAE(decoder_depth=0)
