"""Experiments as data: a scale is how much to spend, a recipe is one way to train."""

from collections.abc import Callable

from scaledq.core.config import config
from scaledq.run.config import RunConfig


@config
class Scale:
    """How much of the paper to spend. `run` is Scaled QL at this scale; recipes change the rest."""

    name: str
    about: str
    """One line, with what it needs and takes."""
    run: RunConfig
    episodes: int = 16
    """Evaluation episodes for each task."""


Recipe = Callable[[Scale], RunConfig]
"""One named way to train; its docstring's first line says what it is."""
