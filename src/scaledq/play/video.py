"""A policy at play, moment by moment and as a film; several policies side by side.

Shapes: A actions; pictures are uint8 [height width 3].
"""

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
from av.codec.codec import UnknownCodecError

from scaledq.core.errors import RunError, TaskError
from scaledq.core.files import write_atomic
from scaledq.core.protocol import PRESETS, Protocol
from scaledq.core.seeds import episode_seed
from scaledq.play.envs import is_game, make_all, make_fleet
from scaledq.play.moment import Explain, Moment, visible
from scaledq.play.picture import Picture, side_by_side
from scaledq.play.policy import Dice, NetPolicy, index, note, start
from scaledq.play.rollout import disturb
from scaledq.play.sequence import SequencePolicy

if TYPE_CHECKING:
    from scaledq.play.atari import ColourScreen
    from scaledq.play.gym import Rendering

FPS = 15
"""Real time for Atari: 60 emulator frames a second, 4 for each decision."""

Actor = NetPolicy | SequencePolicy
"""Whose appraisal of actions can be shown: values, or else probabilities."""


@dataclass(frozen=True, slots=True)
class Act:
    """Who plays, and how to look behind what it thinks."""

    policy: Actor
    explain: Explain | None = None


def record(
    acts: Mapping[str, Act],
    task: str,
    protocol: Protocol,
    *,
    out: Path,
    seed: int,
    max_steps: int = 1_000,
    fps: int = FPS,
) -> int:
    """Films one episode, or its first `max_steps` steps, as mp4; returns the steps filmed.

    It is the first episode of the first slot that an evaluation with this seed plays. Several acts
    play it side by side, each under its label.

    Raises:
      TaskError: a task that a policy does not know, or that has no pictures.
      RunError: `out` is no mp4 file or cannot be written.
    """
    if out.suffix != ".mp4":
        raise RunError(f"a video is written as .mp4, got {out}")
    mp4, steps = film(acts, task, protocol, seed=seed, max_steps=max_steps, fps=fps)
    try:
        write_atomic(out, mp4)
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror or error}") from error
    return steps


def film(
    acts: Mapping[str, Act],
    task: str,
    protocol: Protocol,
    *,
    seed: int,
    max_steps: int,
    fps: int = FPS,
) -> tuple[bytes, int]:
    """As `record`, but the mp4 itself, and the steps filmed."""
    for act in acts.values():
        index(act.policy, task)  # a misspelt task is told before any game is looked for
    plays = {
        label: watch(act, task, protocol, seed=seed, max_steps=max_steps)
        for label, act in acts.items()
    }
    return encode(side_by_side(plays, action_names(task)), fps=fps)


def watch(
    act: Act, task: str, protocol: Protocol, *, seed: int, max_steps: int
) -> Iterator[Moment]:
    """Plays the episode and yields each moment of it, explained on demand."""
    policy, head = act.policy, np.array([index(act.policy, task)])
    fleet, own = make_fleet([task], 1, protocol, stack=policy.stack), episode_seed(seed, task, 0, 0)
    count = np.array([fleet.tasks[0].actions])
    choice, chance = (Dice(seed, name, fleet.names) for name in ("choice", "epsilon"))
    try:
        screen, score = _screen(task, protocol, own), 0.0
        if screen is None and len(fleet.tasks[0].frame_shape) < 2:
            raise TaskError(f"{task} has no pictures to film, only {fleet.tasks[0].frame_shape}")
        fleet.reset(np.array([True]), np.array([own]))
        start(policy, fleet.rows)
        for step in range(max_steps):
            thought = policy.appraise(fleet.obs, head, choice.at(step))
            actions = disturb(thought.actions, count, chance.at(step), epsilon=protocol.epsilon)
            behind = act.explain(fleet.obs, head) if act.explain else None
            values = thought.values[0, : count[0]]
            yield Moment(
                screen.picture if screen else visible(fleet.obs[0, -1]).copy(),
                values,
                int(actions[0]),
                score,
                step,
                behind,
                seen=_seen(fleet.obs[0, -1]) if screen and screen.other_view else None,
            )
            steps = fleet.step(actions)
            note(policy, actions, steps)
            score += float(steps.reward[0])
            if steps.ended[0]:
                return
            if screen:
                screen.step(int(actions[0]))
    finally:
        fleet.close()


def _screen(task: str, protocol: Protocol, seed: int) -> "ColourScreen | Rendering | None":
    """The episode as people see it; None where there is nothing but what the policy sees."""
    kind, _, name = task.partition(":")
    if is_game(task):
        from scaledq.play.atari import ColourScreen

        return ColourScreen(task, protocol, seed)
    if kind == "gym":
        from scaledq.play.gym import rendering

        return rendering(name, protocol, seed)
    return None


def _seen(frame: np.ndarray) -> np.ndarray | None:
    return visible(frame).copy() if frame.ndim > 1 else None


def action_names(task: str) -> list[str]:
    """What the actions are called: as on the joystick for an Atari game, as a gymnasium environment
    names them if it does, else by number."""
    if is_game(task):
        from scaledq.play.atari import joystick

        return joystick(task)
    (envs,) = make_all([task], 1, PRESETS["quick"])
    envs.close()
    named = getattr(envs, "action_names", None)
    return named or [f"action {action}" for action in range(envs.task.actions)]


def encode(pictures: Iterable[Picture], *, fps: int) -> tuple[bytes, int]:
    """An mp4 that browsers play (H.264, yuv420p) of pictures of one size, and how many they are.

    Raises:
      RunError: this PyAV has no H.264 encoder.
    """
    buffer, count = io.BytesIO(), 0
    with av.open(buffer, "w", format="mp4") as container:
        try:
            stream = container.add_stream("libx264", rate=fps, options={"crf": "28"})
        except UnknownCodecError as error:
            raise RunError("PyAV was built without libx264; install the av of PyPI") from error
        stream.pix_fmt = "yuv420p"
        for count, picture in enumerate(pictures, 1):
            if count == 1:
                stream.height, stream.width = picture.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue(), count
