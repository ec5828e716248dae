"""Offline Q-learning on diverse multi-task logs: one generalist policy for many tasks.

`open_store`, `train` and `load_policy` are loaded when they are asked for, so that importing this
package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scaledq.data.store import open_store
    from scaledq.run.policies import load_policy
    from scaledq.run.train import train

__all__ = ["load_policy", "open_store", "train"]

_PLACES = {
    "open_store": "scaledq.data.store",
    "load_policy": "scaledq.run.policies",
    "train": "scaledq.run.train",
}


def __getattr__(name: str) -> object:
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'scaledq' has no attribute {name!r}")
