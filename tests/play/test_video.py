"""Films of play: as many pictures as steps, the values drawn beside them, readable again."""

import io
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from scaledq.core.errors import RunError, TaskError
from scaledq.core.outputs import Outputs
from scaledq.core.protocol import QUICK
from scaledq.play.policy import NetPolicy
from scaledq.play.video import HEIGHT, PANEL, SIDE, action_names, picture, record, record_bytes


def ascending(obs: Tensor, task: Tensor) -> Outputs:
    """Values 0, 1, 2 ... for the six actions of Pong."""
    return {"q": torch.arange(6.0).expand(len(obs), 6)}


POLICY = NetPolicy(ascending, lambda outputs: outputs["q"], ("Pong", "gym:CartPole-v1"))


def pictures(mp4: bytes) -> list[np.ndarray]:
    with av.open(io.BytesIO(mp4), "r") as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_a_film_has_a_picture_for_each_step(tmp_path: Path) -> None:
    out = tmp_path / "clip.mp4"
    assert record(POLICY, "Pong", QUICK, out=out, seed=0, max_steps=12) == 12
    found = pictures(out.read_bytes())
    assert len(found) == 12
    assert found[0].shape == (HEIGHT, SIDE + PANEL, 3)
    assert out.read_bytes() == record_bytes(POLICY, "Pong", QUICK, seed=0, max_steps=12)


def test_bars_grow_with_the_value_and_the_choice_is_bright() -> None:
    frame = np.zeros((84, 84), np.uint8)
    drawn = picture(frame, np.array([0.0, 1.0, 2.0]), ["a", "b", "c"], action=1, caption="")
    bright = (drawn == (255, 176, 0)).all(-1)
    grey = (drawn == (96, 104, 120)).all(-1)[:, SIDE + 84 : SIDE + 162]
    lengths = [grey[18 + row * 18 + 8].sum() for row in range(3)]
    assert bright[18 + 18 + 8].sum() > 0
    assert lengths[0] < lengths[2]


def test_actions_are_called_as_on_the_joystick() -> None:
    assert action_names("Breakout", 4) == ["noop", "fire", "right", "left"]
    assert action_names("toy:chain-6-3", 3) == ["0", "1", "2"]


def test_what_cannot_be_filmed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"\.mp4"):
        record(POLICY, "Pong", QUICK, out=tmp_path / "clip.gif", seed=0)
    with pytest.raises(TaskError, match="no pictures"):
        record(POLICY, "gym:CartPole-v1", QUICK, out=tmp_path / "clip.mp4", seed=0)
    with pytest.raises(TaskError, match="Pong"):
        record(POLICY, "Pnog", QUICK, out=tmp_path / "clip.mp4", seed=0)
    assert not list(tmp_path.iterdir())
