"""Every named way to train. `scaledq train --list` prints their first lines."""

from dataclasses import replace

from scaledq.learn.objective import BehaviourCloning
from scaledq.run.config import RunConfig
from scaledq.study.spec import Recipe, Scale


def scaled_ql(scale: Scale) -> RunConfig:
    """Scaled Q-learning: C51 with CQL, group-norm ResNet, unit-norm features (section 4)."""
    return scale.run


def bc(scale: Scale) -> RunConfig:
    """Behaviour cloning with the same network (section 5)."""
    return replace(scale.run, objective=BehaviourCloning())


RECIPES: dict[str, Recipe] = {recipe.__name__: recipe for recipe in (scaled_ql, bc)}
