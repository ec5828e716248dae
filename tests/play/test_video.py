"""Films of play: a picture for each step, the values drawn beside it, readable again."""

import io
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import ImageColor
from torch import Tensor

from scaledq.core.errors import RunError, TaskError
from scaledq.core.outputs import Outputs
from scaledq.core.protocol import QUICK, Protocol
from scaledq.play.atari import ColourScreen, setup
from scaledq.play.emulator import Emulator
from scaledq.play.policy import NetPolicy
from scaledq.play.rollout import play
from scaledq.play.video import (
    BAR,
    CAPTION,
    GAME,
    LINE,
    SIZE,
    TAKEN,
    Moment,
    action_names,
    draw,
    encode,
    record,
    record_bytes,
    watch,
)

TASKS = ("Pong", "Breakout:m12d0", "toy:chain", "gym:CartPole-v1")
RULES = Protocol(name="short", sticky=0.25, epsilon=0.2, step_cap=60)


def ascending(obs: Tensor, task: Tensor) -> Outputs:
    """Values 0, 1, 2 for three actions; all other actions are unavailable."""
    values = torch.full((len(obs), 6), -torch.inf)
    values[:, :3] = torch.arange(3.0)
    return {"q": values}


POLICY = NetPolicy(ascending, lambda outputs: outputs["q"], TASKS, selection="sampled")


def pictures(mp4: bytes) -> list[np.ndarray]:
    with av.open(io.BytesIO(mp4), "r") as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def coloured(picture: np.ndarray, colour: str) -> np.ndarray:
    return (picture == ImageColor.getrgb(colour)).all(-1)


def test_a_film_has_a_picture_for_each_step(tmp_path: Path) -> None:
    out = tmp_path / "clip.mp4"
    chain = replace(RULES, epsilon=0.0)
    steps = record(POLICY, "toy:chain", chain, out=out, seed=0, max_steps=7)
    found = pictures(out.read_bytes())
    assert len(found) == steps <= 7
    assert found[0].shape == (SIZE[1], SIZE[0], 3)
    assert out.read_bytes() == record_bytes(POLICY, "toy:chain", chain, seed=0, max_steps=7)
    with av.open(str(out), "r") as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 15


def test_the_film_is_of_the_first_episode_of_the_evaluation_with_its_seed() -> None:
    (episode,) = play(POLICY, ("toy:chain",), RULES, episodes=1, slots=1, seed=4)
    moments = list(watch(POLICY, "toy:chain", RULES, seed=4, max_steps=100))
    assert len(moments) == episode.length
    (game,) = play(POLICY, ("Pong",), RULES, episodes=1, slots=1, seed=4)
    shown = list(watch(POLICY, "Pong", RULES, seed=4, max_steps=100))
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


def test_bars_grow_with_the_value_and_the_chosen_one_is_bright() -> None:
    values = np.array([-3.0, 1.0, 0.0, -1.0], np.float32)
    moment = Moment(np.zeros((84, 84), np.uint8), values, action=2, score=12.0, step=3)
    drawn = draw(moment, ["a", "b", "c", "d"], title="Pong")
    # One line of pixels through the middle of each bar, left of the numbers.
    lines = [drawn[CAPTION + 4 + row * LINE + 8, GAME[0] + 106 : GAME[0] + 180] for row in range(4)]
    lengths = [int((coloured(x, BAR) | coloured(x, TAKEN)).sum()) for x in lines]
    assert [a < b for a, b in pairwise(lengths[row] for row in (0, 3, 2, 1))] == [True] * 3
    assert [bool(coloured(line, TAKEN).any()) for line in lines] == [False, False, True, False]


def test_thirty_seconds_of_a_film_fit_into_a_megabyte() -> None:
    """Even if every bar moves in every picture."""
    rng = np.random.default_rng(0)
    screen = ColourScreen("Pong", RULES, 3)
    names = action_names("Pong")

    def shots() -> list[np.ndarray]:
        out = []
        for step in range(90):
            values = rng.normal(size=6).astype(np.float32)
            action = int(values.argmax())
            out.append(draw(Moment(screen.picture, values, action, 0.0, step), names, title="Pong"))
            screen.step(action)
        return out

    assert len(encode(shots(), fps=15)) * 450 / 90 < 1_000_000


def test_actions_are_called_as_on_the_joystick() -> None:
    assert action_names("Breakout:m12d0") == ["noop", "fire", "right", "left"]
    assert action_names("Boxing")[-1] == "down left fire"
    assert action_names("toy:chain") == ["action 0", "action 1", "action 2"]


def test_what_cannot_be_filmed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"\.mp4"):
        record(POLICY, "Pong", QUICK, out=tmp_path / "clip.gif", seed=0)
    with pytest.raises(TaskError, match="no pictures"):
        record(POLICY, "gym:CartPole-v1", QUICK, out=tmp_path / "clip.mp4", seed=0)
    with pytest.raises(TaskError, match="cannot play 'Pnog'; did you mean Pong"):
        record(POLICY, "Pnog", QUICK, out=tmp_path / "clip.mp4", seed=0)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "clip.mp4"
    with pytest.raises(RunError, match="cannot write"):
        record(POLICY, "toy:chain", QUICK, out=out, seed=0, max_steps=1)
