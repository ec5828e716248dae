"""An episode to step through in a browser: one page, no network, one or two policies side by side.

At each step it shows the picture, what in it matters (saliency), every action's value and its
distribution of returns, and the best value over time.
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np
from PIL import Image

from scaledq.play.moment import Moment
from scaledq.play.picture import heat_map


def player(plays: Mapping[str, Sequence[Moment]], names: Sequence[str], *, title: str) -> str:
    """The page.

    Args:
      plays: label -> the moments of an episode; they share the slider.
      names: of the actions.
    """
    content = {
        "names": list(names),
        "plays": [
            {
                "label": label,
                "steps": [_step(moment) for moment in moments],
            }
            for label, moments in plays.items()
        ],
    }
    frame = files("scaledq.play").joinpath("player.html").read_text(encoding="utf-8")
    # A "</script>" in a label would end the page's own.
    data = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
    return Template(frame).substitute(title=escape(title), data=data)


def _step(moment: Moment) -> dict[str, Any]:
    step: dict[str, Any] = {
        "screen": _png(Image.fromarray(moment.screen).convert("RGB")),
        "values": [round(v, 4) if np.isfinite(v) else None for v in moment.values.tolist()],
        "action": moment.action,
        "score": round(moment.score, 4),
    }
    if moment.insight is not None:
        behind = moment.insight
        if len(behind.places):
            step["places"] = [float(behind.places[0]), float(behind.places[-1])]
            step["probs"] = np.round(behind.probs, 3).tolist()
        heat = heat_map(behind.saliency)
        if heat is not None:
            step["saliency"] = _png(heat)
            if moment.seen is not None:
                step["seen"] = _png(Image.fromarray(moment.seen).convert("RGB"))
    return step


def _png(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
