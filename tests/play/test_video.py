"""Films of play: a picture for each step, what is thought drawn beside it, readable again."""

import io
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import av
import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import CartPoleEnv
from PIL import ImageColor
from torch import Tensor

from scaledq.core.errors import RunError, TaskError
from scaledq.core.outputs import Outputs
from scaledq.core.protocol import QUICK, Protocol
from scaledq.play.atari import ColourScreen, setup
from scaledq.play.emulator import Emulator
from scaledq.play.moment import Insight, Moment
from scaledq.play.picture import (
    BAR,
    CAPTION,
    GAME,
    LEFT,
    LENGTH,
    SIZE,
    TAKEN,
    Painter,
    side_by_side,
)
from scaledq.play.policy import NetPolicy
from scaledq.play.rollout import play
from scaledq.play.video import Act, action_names, encode, film, record, watch

BLIND = "gym:Blind-v0"
TASKS = ("Pong", "Breakout:m12d0", "toy:chain", "gym:CartPole-v1", BLIND)


class Blind(CartPoleEnv):
    """Vectors, and nothing that draws them."""

    metadata = {"render_modes": []}  # noqa: RUF012


gymnasium.register("Blind-v0", lambda **_: Blind())
RULES = Protocol(name="short", sticky=0.25, epsilon=0.2, step_cap=60)


def ascending(obs: Tensor, task: Tensor) -> Outputs:
    """Values 0, 1, 2 for three actions; all other actions are unavailable."""
    values = torch.full((len(obs), 6), -torch.inf)
    values[:, :3] = torch.arange(3.0)
    return {"q": values}


POLICY = NetPolicy(ascending, lambda outputs: outputs["q"], TASKS, selection="sampled")
ACT = Act(POLICY)


def pictures(mp4: bytes) -> list[np.ndarray]:
    with av.open(io.BytesIO(mp4), "r") as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def coloured(picture: np.ndarray, colour: str) -> np.ndarray:
    return (picture == ImageColor.getrgb(colour)).all(-1)


def test_a_film_has_a_picture_for_each_step(tmp_path: Path) -> None:
    out = tmp_path / "clip.mp4"
    chain = replace(RULES, epsilon=0.0)
    steps = record({"a": ACT}, "toy:chain", chain, out=out, seed=0, max_steps=7)
    found = pictures(out.read_bytes())
    assert len(found) == steps <= 7
    assert found[0].shape == (SIZE[1], SIZE[0], 3)
    assert (out.read_bytes(), steps) == film({"a": ACT}, "toy:chain", chain, seed=0, max_steps=7)
    with av.open(str(out), "r") as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 15


def test_the_film_is_of_the_first_episode_of_the_evaluation_with_its_seed() -> None:
    (episode,) = play(POLICY, ("toy:chain",), RULES, episodes=1, slots=1, seed=4)
    moments = list(watch(ACT, "toy:chain", RULES, seed=4, max_steps=100))
    assert len(moments) == episode.length
    (game,) = play(POLICY, ("Pong",), RULES, episodes=1, slots=1, seed=4)
    shown = list(watch(ACT, "Pong", RULES, seed=4, max_steps=100))
    assert len(shown) == game.length == RULES.step_cap
    assert shown[-1].score == game.score  # nothing is scored in the last of so few steps


def test_the_colours_are_those_of_the_same_episode() -> None:
    screen = ColourScreen("Breakout:m12d0", RULES, 11)
    emulator = Emulator(setup("Breakout:m12d0", RULES))
    emulator.reset(11)
    for action in (1, 2, 2, 3, 0, 1) * 8:
        screen.step(action)
        emulator.step(action)
        # It is the maximum of this screen and the one before.
        assert (screen.picture >= emulator.ale.getScreenRGB()).all()
    assert (screen.picture == emulator.ale.getScreenRGB()).mean() > 0.99
    assert screen.picture.shape == (210, 160, 3)
    assert np.ptp(screen.picture, axis=-1).any()


def bars(painter: Painter, drawn: np.ndarray) -> list[np.ndarray]:
    """What is drawn of each action's worth."""
    tops = [CAPTION + 4 + row * painter.line for row in range(len(painter.names))]
    return [drawn[top : top + painter.line - 4, LEFT : LEFT + LENGTH] for top in tops]


def test_bars_grow_with_the_value_and_the_chosen_one_is_bright() -> None:
    values = np.array([-3.0, 1.0, 0.0, -1.0, -np.inf], np.float32)
    moment = Moment(np.zeros((84, 84), np.uint8), values, action=2, score=12.0, step=3)
    painter = Painter("abcde", title="Pong")
    lines = bars(painter, painter.draw(moment))
    lengths = [int((coloured(x, BAR) | coloured(x, TAKEN)).sum()) for x in lines]
    order = (4, 0, 3, 2, 1)  # the last is never taken
    assert [a < b for a, b in pairwise(lengths[row] for row in order)] == [True] * 4
    assert [bool(coloured(line, TAKEN).any()) for line in lines] == [False] * 2 + [True] + [
        False
    ] * 2


def test_a_distribution_is_drawn_where_its_mass_lies() -> None:
    probs = np.zeros((2, 21), np.float32)
    probs[0, 2], probs[1, 10], probs[1, 11] = 1.0, 0.5, 0.5
    behind = Insight(np.linspace(-1, 1, 21), probs, np.zeros(0))
    values = np.array([-0.8, 0.05], np.float32)
    moment = Moment(np.zeros((84, 84), np.uint8), values, 1, 0.0, 0, behind)
    painter = Painter(["low", "high"], title="Pong")
    low, high = bars(painter, painter.draw(moment))
    (_, left), (_, right) = (np.nonzero(coloured(x, c)) for x, c in ((low, BAR), (high, TAKEN)))
    tall = slice(painter.line // 4, painter.line // 4 + 1)  # above the floor that all bars have
    assert (
        coloured(low, BAR)[tall].nonzero()[1].max() < coloured(high, TAKEN)[tall].nonzero()[1].min()
    )
    assert (left.min(), right.max()) == (0, LENGTH - 1), "only returns with some mass are shown"


def test_the_past_is_drawn_and_saliency_reddens_what_matters() -> None:
    heat = np.zeros((84, 84), np.float32)
    heat[:42] = 1.0
    behind = Insight(np.zeros(0), np.zeros((0, 0)), heat)
    grey = np.full((84, 84), 100, np.uint8)
    painter, ends = Painter(["a", "b"], title="x"), []
    drawn = np.zeros(0)
    for step in range(40):
        values = np.array([0.0, np.sin(step)])
        drawn = painter.draw(Moment(grey, values, 0, 0.0, step, behind))
        line = coloured(drawn[CAPTION + GAME[1] + 20 :], TAKEN)  # the dot at its end
        ends.append(int(line.nonzero()[1].max()))
    assert [a < b for a, b in pairwise(ends)] == [True] * 39
    above, below = drawn[CAPTION + 40, 50], drawn[CAPTION + 300, 50]
    assert above[0] > 200 > above[1]
    assert below.tolist() == [100] * 3


def test_two_episodes_side_by_side_last_as_long_as_the_longer() -> None:
    def moments(steps: int) -> list[Moment]:
        screen = np.zeros((84, 84), np.uint8)
        return [Moment(screen, np.arange(2.0), 1, float(step), step) for step in range(steps)]

    frames = list(side_by_side({"a": moments(2), "b": moments(5)}, ["x", "y"]))
    assert len(frames) == 5
    assert frames[0].shape == (SIZE[1], 2 * SIZE[0], 3)
    left, right = ([f[:, part] for f in frames] for part in (slice(SIZE[0]), slice(SIZE[0], None)))
    assert (left[1] == left[4]).all()
    assert (right[1] != right[4]).any()


def test_a_gymnasium_task_is_shown_as_it_draws_itself() -> None:
    """Vectors too; what the policy sees is kept beside it where that is a picture."""
    name = "gym:MiniGrid-Empty-5x5-v0+RGBImgPartialObsWrapper"
    rules = replace(RULES, sticky=0.0, epsilon=0.0)

    def left(obs: Tensor, task: Tensor) -> Outputs:
        return {"q": torch.tensor([[1.0, 0.0]]).repeat(len(obs), 1)}

    act = Act(NetPolicy(left, lambda outputs: outputs["q"], (name, "gym:CartPole-v1")))
    pole, *_ = watch(act, "gym:CartPole-v1", rules, seed=3, max_steps=1)
    assert pole.screen.shape == (400, 600, 3)
    assert pole.seen is None
    first, second = watch(act, name, rules, seed=3, max_steps=2)
    assert first.seen is not None
    assert second.seen is not None
    assert (first.seen.shape, first.screen.ndim) == ((56, 56, 3), 3)
    assert (first.screen != second.screen).any()
    assert (first.seen != second.seen).any()
    assert action_names(name)[:3] == ["left", "right", "forward"]


def test_thirty_seconds_of_a_film_fit_into_two_megabytes() -> None:
    """Even if every distribution is another one in every picture."""
    rng = np.random.default_rng(0)
    screen = ColourScreen("Pong", RULES, 3)
    names = action_names("Pong")

    def moments() -> Iterator[Moment]:
        for step in range(90):
            probs = rng.dirichlet(np.full(51, 0.1), size=6).astype(np.float32)
            behind = Insight(np.linspace(-10, 10, 51), probs, np.zeros(0))
            values = (probs @ behind.places).astype(np.float32)
            action = int(values.argmax())
            yield Moment(screen.picture, values, action, 0.0, step, behind)
            screen.step(action)

    mp4, steps = encode(side_by_side({"Pong": moments()}, names), fps=15)
    assert steps == 90
    assert len(mp4) * 450 / 90 < 2_000_000


def test_actions_are_called_as_on_the_joystick() -> None:
    assert action_names("Breakout:m12d0") == ["noop", "fire", "right", "left"]
    assert action_names("Boxing")[-1] == "down left fire"
    assert action_names("toy:chain") == ["action 0", "action 1", "action 2"]


def test_what_cannot_be_filmed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"\.mp4"):
        record({"a": ACT}, "Pong", QUICK, out=tmp_path / "clip.gif", seed=0)
    with pytest.raises(TaskError, match="no pictures"):
        record({"a": ACT}, BLIND, QUICK, out=tmp_path / "clip.mp4", seed=0)
    with pytest.raises(TaskError, match="cannot play 'Pnog'; did you mean Pong"):
        record({"a": ACT}, "Pnog", QUICK, out=tmp_path / "clip.mp4", seed=0)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "clip.mp4"
    with pytest.raises(RunError, match="cannot write"):
        record({"a": ACT}, "toy:chain", QUICK, out=out, seed=0, max_steps=1)
