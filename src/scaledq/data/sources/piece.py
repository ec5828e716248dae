"""What a source consists of: pieces that are independent of each other, each one log of a store."""

from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from scaledq.core.protocol import Protocol as Rules
from scaledq.core.task import Task
from scaledq.data.manifest import Manifest
from scaledq.data.writer import LogWriter


class Rows(NamedTuple):
    """k rows in time order, as LogWriter takes them."""

    frames: np.ndarray
    """[k *frame]"""
    action: np.ndarray
    """[k]; -1 in a row that only holds an episode's closing observation."""
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray


@runtime_checkable
class Piece(Protocol):
    """One log that can be made from a source by itself; plain data that can be sent anywhere."""

    @property
    def task(self) -> str:
        """The task's name."""
        ...

    @property
    def name(self) -> str:
        """The log's."""
        ...

    @property
    def source(self) -> dict[str, str]:
        """Where the log comes from and every choice that decides what is in it."""
        ...

    @property
    def behaviour(self) -> str:
        """Who acted."""
        ...

    @property
    def rules(self) -> Rules | None:
        """The protocol under which it was played; None where the source does not say."""
        ...

    def write(self, store: str, told: Callable[[int], None]) -> Manifest:
        """Writes the log into a store; `told` hears how many rows there are so far.

        Raises:
          DataError: the source cannot be read or is not what it should be (naming the file), or
            the log cannot be written; it stays invisible then.
        """
        ...


def write_rows(
    piece: Piece,
    store: str,
    task: Task,
    rows: Iterable[Rows],
    *,
    told: Callable[[int], None],
    extra: Callable[[], Mapping[str, Any]],
) -> Manifest:
    """Makes a log of `rows`; `extra` is asked, after the last one, what else to say of them."""
    with LogWriter(
        store,
        task,
        piece.name,
        behaviour=piece.behaviour,
        protocol=piece.rules,
        source=piece.source,
        versions={"scaledq": version("scaledq")},
    ) as writer:
        for part in rows:
            writer.append(*part)
            told(len(writer))
        return writer.finish(extra())
