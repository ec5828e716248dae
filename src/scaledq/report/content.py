"""What a report page is made of, as plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scaledq.core.config import fingerprint
from scaledq.core.errors import DataError
from scaledq.core.protocol import Protocol
from scaledq.core.seeds import stream
from scaledq.report.scores import Scores
from scaledq.report.tables import Table

QUANTITIES = (
    "loss",
    "td",
    "cql_gap",
    "nll",
    "grad_norm",
    "overestimation",
    "agreement",
    "effective_rank",
)
"""Of metrics.jsonl: what learning curves are drawn of, where it was logged."""


@dataclass(frozen=True, slots=True)
class Health:
    """One number of a run's learning health, at its end."""

    run: str
    quantity: str
    value: float
    usual: str
    """The range where it lies when learning goes well, as `0 to 10`."""
    advice: str = ""
    """What usually helps; empty where the value lies in that range."""


@dataclass(frozen=True, slots=True)
class Still:
    """A moment of play, and why it is shown."""

    caption: str
    jpeg: bytes


@dataclass(frozen=True, slots=True)
class Video:
    """A short film of the policy at play, and moments of it with what the policy thinks."""

    task: str
    caption: str
    mp4: bytes
    stills: tuple[Still, ...] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """More to show: a study's figures (SVG elements made by `figures.svg`) and tables."""

    title: str
    text: str
    svgs: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportData:
    """Everything that a page says.

    Raises:
      DataError: the subject was not scored, or the scores are of another protocol than `protocol`.
    """

    title: str
    scores: Scores
    subject: str
    """The method that the page is about; the headline compares it with the others."""
    protocol: Protocol
    """Under which `scores` were played; rows name it, with its fingerprint if it is no preset."""
    facts: Mapping[str, str]
    """What ran: tasks, steps, parameters, hardware, seconds, versions."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """method -> how it is written; a method without one is written as it is."""
    curves: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """label -> rows of metrics.jsonl."""
    quantities: tuple[str, ...] = QUANTITIES
    health: tuple[Health, ...] = ()
    videos: tuple[Video, ...] = ()
    commands: tuple[str, ...] = ()
    """How to reproduce it."""
    remarks: tuple[str, ...] = ()
    """Sentences below the headline."""
    sections: tuple[Section, ...] = ()
    seed: int = 0
    """Of the bootstrap."""
    resamples: int = 2000
    """Of the bootstrap."""

    def __post_init__(self) -> None:
        if self.subject not in self.scores.methods:
            known = ", ".join(self.scores.methods)
            raise DataError(f"no scores of {self.subject!r}, only of {known}; evaluate it first")
        played, name = self.scores.protocol, self.protocol.name
        if played not in ("", name, f"{name}-{fingerprint(self.protocol)}"):
            raise DataError(f"scores of protocol {played!r} do not go with {name!r}")

    def label(self, method: str) -> str:
        return self.labels.get(method, method)

    @property
    def methods(self) -> tuple[str, ...]:
        """The subject first, then the others that were trained, then what was recorded."""
        known = self.scores.methods
        return tuple(sorted(known, key=lambda m: (m != self.subject, m in self.scores.recorded)))

    def rng(self, *names: str) -> np.random.Generator:
        """A generator of its own for each interval: more methods change no other's numbers."""
        return stream(self.seed, "report", *names)
