"""What there is to see of one step of play, for films, pages and stills.

Shapes: A actions, Z atoms, S frames in a stack; pictures are uint8 [height width 3] or grey.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped, UInt8


@dataclass(frozen=True, slots=True)
class Insight:
    """What lies behind the values of a moment."""

    places: Float[np.ndarray, "Z"]
    """Returns that the distributions are over; empty where there are none."""
    probs: Float[np.ndarray, "A Z"]
    """Each action's distribution of returns."""
    saliency: Float[np.ndarray, "..."]
    """How much each pixel of the newest frame moves the best action's lead, 0 to 1; empty where
    nobody asked."""


Explain = Callable[[np.ndarray, np.ndarray], Insight]
"""(obs [1 S *frame], task [1]) -> what lies behind the values there."""


@dataclass(frozen=True, slots=True)
class Moment:
    """One step of the episode, before its action is carried out."""

    screen: UInt8[np.ndarray, "..."]
    """In colour where the task has colours, else grey."""
    values: Float[np.ndarray, "A"]
    """-inf for an action that the policy never takes."""
    action: int
    score: float
    step: int
    insight: Insight | None = None
    seen: UInt8[np.ndarray, "..."] | None = None
    """The policy's own picture, where the screen shows another view of the task."""


def visible(frame: Shaped[np.ndarray, "height width ..."]) -> UInt8[np.ndarray, "height width ..."]:
    """Any frame as a picture: other numbers than bytes from dark (lowest) to bright, and other
    channels than three as their mean."""
    if frame.ndim == 3 and frame.shape[2] != 3:
        frame = frame.mean(-1)
    if frame.dtype == np.uint8:
        return frame
    low, high = float(frame.min()), float(frame.max())
    return ((frame - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)
