"""What a page shows of a run at play: a film of each task, and moments with what lies behind them.

Shapes: A actions, S frames in a stack.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from scaledq.core.errors import TaskError
from scaledq.play.moment import Explain, Insight, Moment
from scaledq.play.picture import Painter, side_by_side
from scaledq.play.policy import NetPolicy
from scaledq.play.video import FPS, action_names, encode, watch
from scaledq.report.content import Still, Video
from scaledq.run.evaluate import SEED
from scaledq.run.folder import Run
from scaledq.run.insight import act, explain

CLIP_STEPS = 450
"""Of a film in a page: 30 seconds."""


def films(run: Run) -> tuple[tuple[Video, ...], tuple[str, ...]]:
    """The first half minute of an episode of each task; a remark on each task without pictures."""
    if not run.has_weights:
        return (), (f"No video: the weights of {run.name} were not kept.",)
    clips, remarks = [], []
    for task in run.config.tasks:
        try:
            clips.append(_clip(run, task))
        except TaskError as error:
            remarks.append(f"No video: {error}.")
    return tuple(clips), tuple(remarks)


def _clip(run: Run, task: str) -> Video:
    player = act(run, saliency=False)
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    if player.explain:
        player = replace(player, explain=_noting(player.explain, seen))
    rules = run.config.protocol
    moments = list(watch(player, task, rules, seed=SEED, max_steps=CLIP_STEPS))
    names = action_names(task)
    mp4, _ = encode(side_by_side({task: moments}, names), fps=FPS)
    chosen = telling(moments)
    behind: dict[int, Insight] = {}
    if isinstance(player.policy, NetPolicy):
        look = explain(run)
        behind = {step: look(*seen[step]) for step in chosen}
    stills = tuple(_stills(moments, names, chosen, behind, title=task))
    seconds = min(len(moments), CLIP_STEPS) / FPS
    return Video(task, f"The first {seconds:.0f} seconds of an episode", mp4, stills)


def _noting(look: Explain, seen: list[tuple[np.ndarray, np.ndarray]]) -> Explain:
    """Looks, and keeps what was looked at."""

    def noting(obs: np.ndarray, head: np.ndarray) -> Insight:
        seen.append((obs.copy(), head))
        return look(obs, head)

    return noting


def telling(moments: Sequence[Moment]) -> dict[int, str]:
    """The steps worth a still, in order of time, and why: the best value at its highest and at its
    lowest, and the best action farthest above the mean of all."""
    known = [moment.values[np.isfinite(moment.values)] for moment in moments]
    best = np.array([values.max() for values in known])
    lead = np.array([values.max() - values.mean() for values in known])
    reasons: dict[int, list[str]] = {}
    for step, reason in (
        (best.argmax(), "most is expected"),
        (best.argmin(), "least is expected"),
        (lead.argmax(), "the choice matters most"),
    ):
        reasons.setdefault(int(step), []).append(reason)
    return {step: ", ".join(reasons[step]) for step in sorted(reasons)}


def _stills(
    moments: Sequence[Moment],
    names: Sequence[str],
    chosen: dict[int, str],
    behind: dict[int, Insight],
    *,
    title: str,
) -> Iterator[Still]:
    painter = Painter(names, title=title)
    for step, moment in enumerate(moments[: max(chosen) + 1]):
        picture = painter.draw(replace(moment, insight=behind.get(step, moment.insight)))
        if step in chosen:
            buffer = io.BytesIO()
            Image.fromarray(picture).save(buffer, "JPEG", quality=85)
            yield Still(f"Step {moment.step}: {chosen[step]}", buffer.getvalue())
