"""A policy at play, as a film: what it sees, and beside it how it values each action.

Shapes: A actions; pictures are uint8 [height width 3].
"""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
from av.codec.codec import UnknownCodecError
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from scaledq.core.errors import RunError, TaskError
from scaledq.core.files import write_atomic
from scaledq.core.protocol import PRESETS, Protocol
from scaledq.core.seeds import episode_seed
from scaledq.play.envs import is_game, make_all, make_fleet
from scaledq.play.policy import Dice, NetPolicy, index, note, start
from scaledq.play.rollout import disturb
from scaledq.play.sequence import SequencePolicy

if TYPE_CHECKING:
    from scaledq.play.atari import ColourScreen

FPS = 15
"""Real time for Atari: 60 emulator frames a second, 4 for each decision."""
GAME, PANEL, CAPTION, LINE = (320, 420), 240, 24, 23
"""Pixels: the game's picture (width, height), the panel's width, the height of lines of text."""
SIZE = (GAME[0] + PANEL, GAME[1] + CAPTION)
BACK, INK, DIM, BAR, TAKEN = "#12141a", "#e8eaed", "#8b93a3", "#4a5568", "#ffb000"

Actor = NetPolicy | SequencePolicy
"""Whose appraisal of actions can be shown: values, or else probabilities."""
Picture = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True, slots=True)
class Insight:
    """What lies behind the values of a moment."""

    places: Float[np.ndarray, "Z"]
    """Returns that the distributions are over; empty where there are none."""
    probs: Float[np.ndarray, "A Z"]
    """Each action's distribution of returns."""
    saliency: Float[np.ndarray, "..."]
    """How much each pixel of the newest frame moves the best action's lead, 0 to 1."""


Explain = Callable[[np.ndarray, np.ndarray], Insight]
"""(obs [1 S *frame], task [1]) -> what lies behind the values there."""


@dataclass(frozen=True, slots=True)
class Moment:
    """One step of the episode, before its action is carried out."""

    screen: UInt8[np.ndarray, "..."]
    """In colour where the task has colours, else grey."""
    values: Float[np.ndarray, "A"]
    action: int
    score: float
    step: int
    insight: Insight | None = None


def record(
    policy: Actor,
    task: str,
    protocol: Protocol,
    *,
    out: Path,
    seed: int,
    max_steps: int = 1_000,
    fps: int = FPS,
) -> int:
    """Films one episode, or its first `max_steps` steps, as mp4; returns the steps filmed.

    It is the first episode of the first slot that an evaluation with this seed plays.

    Raises:
      TaskError: a task that the policy does not know, or whose frames are no pictures.
      RunError: `out` is no mp4 file or cannot be written.
    """
    if out.suffix != ".mp4":
        raise RunError(f"a video is written as .mp4, got {out}")
    mp4, steps = _film(policy, task, protocol, seed=seed, max_steps=max_steps, fps=fps)
    try:
        write_atomic(out, mp4)
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror or error}") from error
    return steps


def record_bytes(
    policy: Actor, task: str, protocol: Protocol, *, seed: int, max_steps: int, fps: int = FPS
) -> bytes:
    """As `record`, but the mp4 itself."""
    return _film(policy, task, protocol, seed=seed, max_steps=max_steps, fps=fps)[0]


def _film(
    policy: Actor, task: str, protocol: Protocol, *, seed: int, max_steps: int, fps: int
) -> tuple[bytes, int]:
    index(policy, task)  # a misspelt task is told before any game is looked for
    names, steps = action_names(task), 0

    def pictures() -> Iterator[Picture]:
        nonlocal steps
        for moment in watch(policy, task, protocol, seed=seed, max_steps=max_steps):
            steps += 1
            yield draw(moment, names, title=task)

    return encode(pictures(), fps=fps), steps


def watch(
    policy: Actor,
    task: str,
    protocol: Protocol,
    *,
    seed: int,
    max_steps: int,
    explain: Explain | None = None,
) -> Iterator[Moment]:
    """Plays the episode and yields each moment of it, explained on demand."""
    head = np.array([index(policy, task)])
    fleet = make_fleet([task], 1, protocol, stack=policy.stack, threads=1)
    count, own = np.array([fleet.tasks[0].actions]), episode_seed(seed, task, 0, 0)
    choice, chance = (Dice(seed, name, fleet.names) for name in ("choice", "epsilon"))
    try:
        if len(fleet.tasks[0].frame_shape) < 2:
            raise TaskError(f"{task} has no pictures to film, only {fleet.tasks[0].frame_shape}")
        fleet.reset(np.array([True]), np.array([own]))
        start(policy, fleet.rows)
        colours, score = _colours(task, protocol, own), 0.0
        for step in range(max_steps):
            thought = policy.appraise(fleet.obs, head, choice.at(step))
            actions = disturb(thought.actions, count, chance.at(step), epsilon=protocol.epsilon)
            screen = colours.picture if colours else fleet.obs[0, -1].copy()
            behind = explain(fleet.obs, head) if explain else None
            values = thought.values[0, : count[0]]
            yield Moment(screen, values, int(actions[0]), score, step, behind)
            steps = fleet.step(actions)
            note(policy, actions, steps)
            score += float(steps.reward[0])
            if steps.ended[0]:
                return
            if colours:
                colours.step(int(actions[0]))
    finally:
        fleet.close()


def _colours(task: str, protocol: Protocol, seed: int) -> "ColourScreen | None":
    if not is_game(task):
        return None
    from scaledq.play.atari import ColourScreen

    return ColourScreen(task, protocol, seed)


def action_names(task: str) -> list[str]:
    """What the actions are called: as on the joystick for an Atari game, else by number."""
    if is_game(task):
        from scaledq.play.atari import joystick

        return joystick(task)
    (envs,) = make_all([task], 1, PRESETS["quick"])
    envs.close()
    return [f"action {action}" for action in range(envs.task.actions)]


def draw(moment: Moment, names: Sequence[str], *, title: str) -> Picture:
    """The screen; and for each action a bar, from the lowest value to the highest, and its value.

    The action that is taken is bright. If that is not the longest bar, chance has chosen.
    """
    canvas = Image.new("RGB", SIZE, BACK)
    shown = Image.fromarray(moment.screen).convert("RGB")
    scale = min(GAME[0] / shown.width, GAME[1] / shown.height)
    square = (int(scale * shown.width), int(scale * shown.height))
    pixels = GAME if moment.screen.ndim == 3 else square  # an Atari's pixels are wider than high
    canvas.paste(shown.resize(pixels, Image.Resampling.NEAREST), (0, CAPTION))
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    caption = f"score {moment.score:,.6g}    step {moment.step:,}"
    pen.text((6, 4), title, INK, font=font)
    pen.text((GAME[0] + 8, 4), caption, INK, font=font)
    low, high = float(moment.values.min()), float(moment.values.max())
    for row, (name, value) in enumerate(zip(names, moment.values.tolist(), strict=True)):
        top, left = CAPTION + 4 + row * LINE, GAME[0] + 106
        length = (value - low) / (high - low) if high > low else 1.0
        taken = row == moment.action
        pen.rectangle((left, top + 3, left + 2 + 70 * length, top + 14), TAKEN if taken else BAR)
        pen.text((GAME[0] + 8, top), name, TAKEN if taken else DIM, font=font)
        pen.text((SIZE[0] - 6, top), f"{value:.2f}", INK if taken else DIM, font=font, anchor="ra")
    return np.asarray(canvas)


def encode(pictures: Iterable[Picture], *, fps: int) -> bytes:
    """An mp4 that browsers play (H.264, yuv420p) of pictures of `SIZE`.

    Raises:
      RunError: this PyAV has no H.264 encoder.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        try:
            stream = container.add_stream("libx264", rate=fps, options={"crf": "28"})
        except UnknownCodecError as error:
            raise RunError("PyAV was built without libx264; install the av of PyPI") from error
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()
