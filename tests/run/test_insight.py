"""The page that steps through an episode: what it shows is what the policy thinks."""

import json
import re
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from scaledq.core.errors import TaskError
from scaledq.core.protocol import Protocol
from scaledq.data.loader import Transitions
from scaledq.data.writer import LogWriter
from scaledq.learn.bc import BehaviourCloning
from scaledq.nets.head import NeckConfig
from scaledq.nets.mlp import MLPConfig
from scaledq.play.picture import CAPTION, GAME, SIZE
from scaledq.play.toy import CHAIN, pictures, random_log, task
from scaledq.run.config import RunConfig
from scaledq.run.folder import Run
from scaledq.run.insight import explain, write_film, write_player
from scaledq.run.train import train


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    place = tmp_path_factory.mktemp("insight")
    rows = random_log("chain", 300, seed=0)
    with LogWriter(
        place / "store", task("chain"), "log", behaviour="random", protocol=None, source={},
        versions={},
    ) as log:  # fmt: skip
        log.append(rows.frames, rows.action, rows.reward, rows.terminated, rows.truncated)
        log.finish()
    cfg = RunConfig(
        tasks=("toy:chain",),
        stores=(str(place / "store"),),
        encoder=MLPConfig(widths=(16,)),
        neck=NeckConfig(embedding="none", width=16),
        transitions=Transitions(stack=2, gamma=0.9),
        batch_size=16,
        steps=5,
        protocol=Protocol(name="toy", epsilon=0.0),
    )
    return [train(c, place / "runs") for c in (cfg, replace(cfg, objective=BehaviourCloning()))]


def test_distributions_have_the_values_as_means_and_saliency_is_a_gradient(runs: list[Run]) -> None:
    policy, look = runs[0].policy(), explain(runs[0])
    obs = pictures(CHAIN, 8)[None, 1:3]
    head = np.zeros(1, np.int64)
    insight = look(obs, head)
    np.testing.assert_allclose(insight.probs.sum(1), 1, atol=1e-5)
    values = policy.appraise(obs, head, np.zeros(1)).values[0]
    np.testing.assert_allclose(insight.probs @ insight.places, values, atol=1e-4)
    assert insight.saliency.shape == (8, 8)
    assert insight.saliency.max() == pytest.approx(1.0)
    quick = explain(runs[0], saliency=False)(obs, head)
    np.testing.assert_allclose(quick.probs, insight.probs, atol=1e-6)
    assert quick.saliency.size == 0


def test_two_runs_play_the_same_episode_side_by_side(runs: list[Run], tmp_path: Path) -> None:
    out = tmp_path / "episode.html"
    write_player(runs, "toy:chain", out, seed=3, max_steps=6)
    page = out.read_text()
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.S)
    assert found
    data = json.loads(found.group(1))
    assert [p["label"].partition(" ")[0] for p in data["plays"]] == ["1.", "2."]
    first, second = (p["steps"] for p in data["plays"])
    assert first[0]["screen"] == second[0]["screen"]  # the same beginning
    assert len(first[0]["values"]) == len(data["names"]) == 3
    assert first[0]["action"] == int(np.argmax(first[0]["values"]))
    assert len(first[0]["probs"][0]) == 51
    assert "probs" not in second[0]  # a clone has no returns
    assert "http" not in page.replace("http-equiv", "")


def test_two_runs_are_filmed_side_by_side(runs: list[Run], tmp_path: Path) -> None:
    out = tmp_path / "both.mp4"
    write_film(runs, "toy:chain", out, seed=3, max_steps=6, saliency=True)
    with av.open(str(out), "r") as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert frames[0].shape == (SIZE[1], 2 * SIZE[0], 3)
    first, second = frames[0][:, : GAME[0]], frames[0][:, SIZE[0] : SIZE[0] + GAME[0]]
    assert first.shape == second.shape
    title, _ = np.split(frames[0][:CAPTION], [GAME[0]], axis=1)
    assert title.max() > 200


def test_a_task_that_is_not_known_is_refused_and_nothing_is_written(
    runs: list[Run], tmp_path: Path
) -> None:
    with pytest.raises(TaskError):
        write_player(runs, "toy:maze", tmp_path / "x.html", seed=0, max_steps=3)
    assert not list(tmp_path.iterdir())
