"""Fitted Q evaluation against exact values of known policies in a known problem."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scaledq.core.batch import Batch
from scaledq.core.errors import ConfigError
from scaledq.data.loader import Loader, Transitions
from scaledq.data.store import open_store
from scaledq.data.view import View
from scaledq.data.writer import LogWriter
from scaledq.learn.fqe import FittedQ, FQEConfig, probabilities
from scaledq.play.toy import CHAIN, random_log, table, task

POLICIES = {
    "left": (1.0, 0.0, 0.0),
    "right": (0.0, 1.0, 0.0),
    "still": (0.0, 0.0, 1.0),
    "random": (1 / 3, 1 / 3, 1 / 3),
}
GAMMA = 0.9
CFG = FQEConfig(steps=500, batch_size=64, replicates=4, lr=1e-2, fraction=0.05)


def exact(policy: tuple[float, ...]) -> float:
    """The discounted value of CHAIN's start, by sweeping Bellman's equation."""
    mdp, value = table(CHAIN), np.zeros(len(CHAIN.map[0]))
    for _ in range(300):
        q = mdp.reward + GAMMA * np.where(mdp.ends, 0, value[mdp.next])
        value = q @ np.array(policy)
    return float(value[CHAIN.start])


class Linear(nn.Module):
    """One number for each pixel, action, policy and replicate: a table, in effect."""

    def __init__(self, outputs: int):
        super().__init__()
        self.layer = nn.Linear(64, 3 * outputs)
        nn.init.zeros_(self.layer.weight)

    def forward(self, obs: Tensor, task: Tensor) -> dict[str, Tensor]:
        return {"q": self.layer(obs.flatten(1).float() / 255).unflatten(-1, (3, -1))}


def acting(obs: Tensor, task: Tensor) -> Tensor:
    return torch.tensor(list(POLICIES.values())).expand(len(obs), -1, -1)


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Loader:
    store = tmp_path_factory.mktemp("fqe") / "store"
    rows = random_log("chain", 3_000, seed=0, piece=4)
    with LogWriter(
        store, task("chain"), "log", behaviour="random", protocol=None, source={}, versions={}
    ) as log:
        log.append(rows.frames, rows.action, rows.reward, rows.terminated, rows.truncated)
        log.finish()
    return Loader(
        [open_store(str(store))],
        ["toy:chain"],
        view=View(),
        transitions=Transitions(stack=1, n_step=1, gamma=GAMMA),
        batch_size=CFG.batch_size,
        seed=0,
    )


def test_the_values_of_several_policies_are_found_at_once(loader: Loader) -> None:
    fitted = FittedQ(Linear(CFG.head(len(POLICIES)).size), acting, CFG)
    for step in range(CFG.steps):
        weights = torch.from_numpy(CFG.weights(loader.episodes(step)))
        batch = loader.batch(step)
        assert isinstance(batch, Batch)
        fitted.update(batch, weights)
    log = random_log("chain", 1, seed=0)
    obs = torch.from_numpy(log.frames[:1, None])
    found = fitted.values(obs, torch.zeros(1).long())[0]
    wanted = torch.tensor([exact(policy) for policy in POLICIES.values()])
    np.testing.assert_allclose(found[:, 0], wanted, atol=0.06)
    assert found[1, 0] > found[3, 0] > found[2, 0] - 0.05
    assert found.std(dim=1).max() < 0.1  # replicates saw other episodes, but the same problem


def test_without_a_future_the_value_is_the_mean_reward(loader: Loader) -> None:
    """Limit: discount 0 leaves a regression of the reward on state and action."""
    fitted = FittedQ(Linear(CFG.head(len(POLICIES)).size), acting, CFG)
    for step in range(200):
        batch = loader.batch(step)
        assert isinstance(batch, Batch)
        batch.discount.zero_()
        fitted.update(batch, torch.ones(len(batch), CFG.replicates))
    first = random_log("chain", 1, seed=0)
    obs = torch.from_numpy(first.frames[:1, None])
    found = fitted.values(obs, torch.zeros(1).long())[0]
    mdp = table(CHAIN)
    wanted = [mdp.reward[CHAIN.start] @ np.array(policy) for policy in POLICIES.values()]
    for replicate in range(CFG.replicates):
        np.testing.assert_allclose(found[:, replicate], wanted, atol=0.05)


def test_replicates_see_whole_episodes_a_random_number_of_times(loader: Loader) -> None:
    episodes = loader.episodes(3)
    assert len(set(episodes.tolist())) > 10
    wide = FQEConfig(replicates=400)
    weights = wide.weights(episodes)
    assert (weights[:, 0] == 1).all()
    for episode in set(episodes.tolist()):
        assert (weights[episodes == episode] == weights[episodes == episode][0]).all()
    assert weights[:, 1:].mean() == pytest.approx(1.0, abs=0.1)
    assert weights[:, 1:].var() == pytest.approx(1.0, abs=0.2)
    assert (weights == wide.weights(episodes)).all()


def test_probabilities_are_of_what_a_policy_does() -> None:
    preferences = torch.tensor([[1.0, 3.0, -torch.inf, 2.0]])
    greedy = probabilities(preferences, sampled=False, epsilon=0.3)
    np.testing.assert_allclose(greedy, [[0.1, 0.8, 0.0, 0.1]], atol=1e-6)
    drawn = probabilities(preferences, sampled=True, epsilon=0.0)
    np.testing.assert_allclose(drawn, preferences.softmax(-1))
    assert probabilities(preferences, sampled=True, epsilon=1.0)[0, 2] == 0


def test_settings_that_cannot_work_are_refused() -> None:
    for wrong in ({"replicates": 1}, {"lr": 0.0}, {"fraction": 2.0}, {"steps": 0}):
        with pytest.raises(ConfigError, match="fqe"):
            FQEConfig(**wrong)  # pyright: ignore[reportArgumentType]
