"""A policy at play, as a film: what it sees, and beside it how it values each action.

Shapes: A actions; pictures are uint8 [height width 3].
"""

import io
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from scaledq.core import atari
from scaledq.core.errors import RunError, TaskError
from scaledq.core.files import write_atomic
from scaledq.core.protocol import Protocol
from scaledq.core.seeds import episode_seed
from scaledq.play.envs import make_fleet
from scaledq.play.policy import Dice, NetPolicy, choose, index
from scaledq.play.rollout import disturb

HEIGHT, SIDE, PANEL, LINE = 352, 336, 208, 18
"""Pixels: of the film, of the game's picture in it, and of the panel with its lines of text."""
BACK, INK, DIM, BEST = (18, 20, 26), (232, 234, 237), (96, 104, 120), (255, 176, 0)


def record(
    policy: NetPolicy,
    task: str,
    protocol: Protocol,
    *,
    out: Path,
    seed: int,
    max_steps: int = 1_000,
    fps: int = 15,
) -> int:
    """Films one episode, or its first `max_steps` steps, as mp4; returns the steps filmed.

    Raises:
      TaskError: a task that the policy does not know, or whose frames are no pictures.
      RunError: `out` is no mp4 file, or cannot be written.
    """
    if out.suffix != ".mp4":
        raise RunError(f"a video is written as .mp4, got {out}")
    pictures = list(film(policy, task, protocol, seed=seed, max_steps=max_steps))
    try:
        write_atomic(out, encode(pictures, fps=fps))
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror or error}") from error
    return len(pictures)


def record_bytes(
    policy: NetPolicy, task: str, protocol: Protocol, *, seed: int, max_steps: int, fps: int = 15
) -> bytes:
    """As `record`, but the mp4 itself."""
    return encode(film(policy, task, protocol, seed=seed, max_steps=max_steps), fps=fps)


def film(
    policy: NetPolicy, task: str, protocol: Protocol, *, seed: int, max_steps: int
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """The pictures of one episode, one a step, its values and choices drawn beside each."""
    head = np.array([index(policy, task)])
    fleet = make_fleet([task], 1, protocol, stack=policy.stack)
    try:
        if len(fleet.tasks[0].frame_shape) != 2:
            raise TaskError(f"{task} has no pictures to film, only {fleet.tasks[0].frame_shape}")
        choice, chance = (Dice(seed, name, fleet.names) for name in ("choice", "epsilon"))
        count = np.array([fleet.tasks[0].actions])
        names = action_names(task, fleet.tasks[0].actions)
        fleet.reset(np.array([True]), np.array([episode_seed(seed, task, 0, 0)]))
        score = 0.0
        for step in range(max_steps):
            values = policy.values(fleet.obs, head)
            actions = choose(values, choice.at(step), selection=policy.selection)
            actions = disturb(actions, count, chance.at(step), epsilon=protocol.epsilon)
            yield picture(
                fleet.obs[0, -1],
                values[0, : len(names)],
                names,
                action=int(actions[0]),
                caption=f"{task}   score {score:,.0f}   step {step:,}",
            )
            steps = fleet.step(actions)
            score += float(steps.reward[0])
            if steps.ended[0]:
                return
    finally:
        fleet.close()


def action_names(task: str, actions: int) -> list[str]:
    """What the actions are called: as on the joystick for an Atari game, numbers otherwise."""
    game = atari.games().get(task.partition(":")[0])
    if game is None:
        return [str(action) for action in range(actions)]
    from ale_py import ALEInterface, LoggerMode, roms

    ALEInterface.setLoggerMode(LoggerMode.Error)
    ale = ALEInterface()
    ale.loadROM(str(roms.get_rom_path(game.rom)))
    return [action.name.lower() for action in ale.getMinimalActionSet()]


def picture(
    frame: UInt8[np.ndarray, "H W"],
    values: Float[np.ndarray, "A"],
    names: list[str],
    *,
    action: int,
    caption: str,
) -> UInt8[np.ndarray, "h w 3"]:
    """The frame, and a bar for each action from the lowest value to the highest.

    The action that is taken is bright; that it is not the longest bar shows a random step.
    """
    canvas = Image.new("RGB", (SIDE + PANEL, HEIGHT), BACK)
    canvas.paste(Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.NEAREST), (0, 16))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(11)
    draw.text((4, 1), caption, INK, font=font)
    low, high = float(values.min()), float(values.max())
    for row, (name, value) in enumerate(zip(names, values.tolist(), strict=True)):
        top = 18 + row * LINE
        length = (value - low) / (high - low) if high > low else 0.0
        colour = BEST if row == action else DIM
        left = SIDE + 84
        draw.rectangle((left, top + 3, left + 2 + 76 * length, top + LINE - 5), colour)
        draw.text((SIDE + 6, top), name, INK if row == action else DIM, font=font)
        draw.text((SIDE + PANEL - 40, top), f"{value:6.2f}", INK, font=font)
    return np.asarray(canvas)


def encode(pictures: Iterator[np.ndarray] | list[np.ndarray], *, fps: int) -> bytes:
    """An mp4 (H.264, yuv420p: browsers play it) of pictures of one size, both sides even."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "30"})
        stream.width, stream.height, stream.pix_fmt = SIDE + PANEL, HEIGHT, "yuv420p"
        for each in pictures:
            for packet in stream.encode(av.VideoFrame.from_ndarray(each, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return buffer.getvalue()
