"""How a moment of play is drawn: what is seen, what each action is thought to be worth, the past.

Shapes: A actions, Z atoms; pictures are uint8 [height width 3].
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from PIL.ImageDraw import ImageDraw as Pen

from scaledq.play.moment import Moment, visible

GAME, PANEL, CAPTION = (320, 420), 330, 24
"""Pixels: the game's picture (width, height), the panel's width, the height of a line of text."""
LINES = (23, 46)
"""Pixels: the height of an action's line, 18 of them or few."""
PAST = 72
"""Pixels: the height of the strip with the best value over time."""
SIZE = (GAME[0] + PANEL, CAPTION + GAME[1] + PAST)
LEFT, LENGTH = GAME[0] + 106, 150
"""Pixels: where bars and distributions begin, and how long they get."""
MEMORY = 450
"""Steps that the strip shows: 30 seconds."""
BACK, INK, DIM, BAR, TAKEN = "#12141a", "#e8eaed", "#8b93a3", "#4a5568", "#ffb000"

Picture = UInt8[np.ndarray, "height width 3"]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class Painter:
    """Draws the moments of one episode, in order.

    It remembers the best values so far, and which returns had some probability: distributions are
    shown over those.
    """

    def __init__(self, names: Sequence[str], *, title: str):
        self.names, self.title = names, title
        self.line = max(LINES[0], min(LINES[1], GAME[1] // len(names)))
        self._best: list[float] = []
        self._low, self._high = np.inf, -np.inf

    def draw(self, moment: Moment) -> Picture:
        """The screen; for each action its distribution of returns, or else a bar from the lowest
        value to the highest, and its value; below, the best value over time.

        The action that is taken is bright. If that is not the most valuable, chance has chosen.
        """
        canvas = Image.new("RGB", SIZE, BACK)
        canvas.paste(_screen(moment), (0, CAPTION))
        pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
        pen.text((6, 4), _fitting(self.title, font), INK, font=font)
        caption = f"score {moment.score:,.6g}    step {moment.step:,}"
        pen.text((GAME[0] + 8, 4), caption, INK, font=font)
        known = moment.values[np.isfinite(moment.values)]
        span = (float(known.min()), float(known.max())) if len(known) else (0.0, 0.0)
        for row, (name, value) in enumerate(zip(self.names, moment.values.tolist(), strict=True)):
            top, taken = CAPTION + 4 + row * self.line, row == moment.action
            pen.text((GAME[0] + 8, top), name, TAKEN if taken else DIM, font=font)
            self._worth(pen, moment, row, span)
            said, ink = f"{value:.2f}" if np.isfinite(value) else "never", INK if taken else DIM
            pen.text((SIZE[0] - 6, top), said, ink, font=font, anchor="ra")
        self._best.append(span[1])
        self._past(pen, font)
        return np.asarray(canvas)

    def _worth(self, pen: Pen, moment: Moment, row: int, span: tuple[float, float]) -> None:
        top, value = CAPTION + 4 + row * self.line, float(moment.values[row])
        colour = TAKEN if row == moment.action else BAR
        if moment.insight is None or not len(moment.insight.places):
            share = (value - span[0]) / (span[1] - span[0]) if span[1] > span[0] else 1.0
            if np.isfinite(value):
                pen.rectangle((LEFT, top + 3, LEFT + 2 + (LENGTH - 4) * share, top + 14), colour)
            return
        places, probs = moment.insight.places, moment.insight.probs
        if row == 0:
            likely = places[(probs > 0.01).any(0)]
            self._low = min(self._low, float(likely.min()))
            self._high = max(self._high, float(likely.max()))
        shown = (places >= self._low) & (places <= self._high)
        width = LENGTH / shown.sum()
        tall = self.line - 5
        heights = tall * probs[row][shown] / max(float(probs[row].max()), 1e-6)
        for place, height in enumerate(heights.tolist()):
            left = LEFT + place * width
            pen.rectangle((left, top + tall - height, left + max(width - 1, 0), top + tall), colour)

    def _past(self, pen: Pen, font: Font) -> None:
        """The best value over the last steps, and what distributions are over."""
        values = self._best[-MEMORY:]
        top, (low, high) = CAPTION + GAME[1], (min(values), max(values))
        step, height = (SIZE[0] - 12) / (MEMORY - 1), PAST - 26
        share = height / (high - low) if high > low else 0.0
        line = [(6 + t * step, SIZE[1] - 5 - (v - low) * share) for t, v in enumerate(values)]
        pen.line(line * 2 if len(line) == 1 else line, INK, width=2)
        x, y = line[-1]
        pen.ellipse((x - 3, y - 3, x + 3, y + 3), TAKEN)
        pen.text((6, top + 2), f"best value over time, {low:.3g} to {high:.3g}", DIM, font=font)
        if np.isfinite(self._low):
            said = f"distributions: returns {self._low:.3g} to {self._high:.3g}"
            pen.text((SIZE[0] - 6, top + 2), said, DIM, font=font, anchor="ra")


def side_by_side(plays: Mapping[str, Iterable[Moment]], names: Sequence[str]) -> Iterator[Picture]:
    """A picture for each step of the longest; an episode that is over keeps its last picture."""
    painters = [Painter(names, title=label) for label in plays]
    last: list[Picture] = [np.zeros((*SIZE[::-1], 3), np.uint8)] * len(painters)
    for moments in zip_longest(*plays.values()):
        for number, (painter, moment) in enumerate(zip(painters, moments, strict=True)):
            if moment is not None:
                last[number] = painter.draw(moment)
        yield np.concatenate(last, axis=1)


def heat_map(saliency: np.ndarray) -> Image.Image | None:
    """Red where it matters, transparent elsewhere; None where frames are no pictures."""
    if saliency.ndim != 2:
        return None
    heat = np.zeros((*saliency.shape, 4), np.uint8)
    heat[..., 0], heat[..., 3] = 255, (200 * saliency).astype(np.uint8)
    return Image.fromarray(heat)


def _screen(moment: Moment) -> Image.Image:
    """The game's picture; with saliency, the picture that it belongs to and what matters in it."""
    heat = heat_map(moment.insight.saliency) if moment.insight else None
    picture = moment.screen if heat is None or moment.seen is None else moment.seen
    shown = Image.fromarray(visible(picture)).convert("RGB")
    scale = min(GAME[0] / shown.width, GAME[1] / shown.height)
    size = (max(1, int(scale * shown.width)), max(1, int(scale * shown.height)))
    shown = shown.resize(size, Image.Resampling.NEAREST)
    if heat is not None:
        over = heat.resize(shown.size, Image.Resampling.BILINEAR)
        shown.paste(over, (0, 0), over)
    return shown


def _fitting(title: str, font: Font) -> str:
    """As much of the title as there is room for."""
    room = GAME[0] - 12
    if font.getlength(title) <= room:
        return title
    while title and font.getlength(title + "...") > room:
        title = title[:-1]
    return title + "..."
