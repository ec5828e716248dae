"""DQN-Replay as Google published it: <SOURCE>/<Game>/<run>/replay_logs, one log for each run.

What is in the files and what has to be left out of them: `replay_files`. Rewards are clipped to
[-1, 1] already; no observation after an episode's end exists.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from scaledq.core import atari
from scaledq.core.config import config
from scaledq.core.errors import ConfigError, DataError
from scaledq.core.protocol import DQN_REPLAY, Protocol
from scaledq.data.manifest import Manifest
from scaledq.data.sources.folder import Folder
from scaledq.data.sources.piece import write_rows
from scaledq.data.sources.replay_files import Damaged, File, Reader, measure, numbers


@config
class DQNReplay:
    """Which runs to read, and what to do about what is missing or damaged."""

    kind: Literal["dqn-replay"] = "dqn-replay"
    source: str
    tasks: tuple[str, ...] = ()
    """Games; all that are there by default."""
    runs: tuple[int, ...] = (1,)
    files: int | None = None
    """Only the first so many of each run: 10 of 50 are the paper's first 20 %."""
    gaps: bool = False
    """Go on where files are missing: what is there is written, and cut where it does not join."""
    damaged: Damaged = "refuse"
    """What to do about a row with an impossible action, reward or terminal: stop, or leave it out,
    cutting the episode there. How many were dropped stands in the log's manifest."""
    padding: int = 3
    """Rows of zeros before each episode, at most: the recording agent's stack less one."""
    step_cap: int = 27_000
    """An episode that ends after exactly so many steps counts as truncated, not terminated: the
    files mark both as terminal, and no other sign tells them apart."""

    def __post_init__(self) -> None:
        if self.padding < 0 or self.step_cap < 1 or (self.files is not None and self.files < 1):
            raise ConfigError("dqn-replay: need padding >= 0, step_cap >= 1 and files >= 1")

    def pieces(self) -> tuple["Run", ...]:
        """One log for each game and run.

        Raises:
          TaskError: no such game.
          DataError: a game, a run or (without `gaps`) a file that is not there, naming it.
        """
        top = Folder(self.source)
        games = self.tasks or tuple(name for name in top.names() if name in atari.games())
        if not games:
            raise DataError(
                f"{top} holds no game's folder; it should look like {top}/Breakout/1/replay_logs"
            )
        return tuple(self._run(top, atari.task(g).name, r) for g in games for r in self.runs)

    def _run(self, top: Folder, game: str, run: int) -> "Run":
        folder = top / game / str(run) / "replay_logs"
        there, missing = numbers(folder)
        if self.files is not None:
            there = [number for number in there if number < self.files]
            missing = [name for name in missing if int(name.split(".")[-2]) < self.files]
        if not there and not missing:
            raise DataError(f"{folder} holds no $store$_observation_ckpt.N.gz; check the path")
        if not there or (missing and not self.gaps):
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise DataError(
                f"{folder}: {missing[0]}{more} is missing (whole files: {_spans(there)}); fetch "
                "it, or allow gaps"
            )
        return Run(config=self, game=game, run=run, numbers=tuple(there), missing=tuple(missing))


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run of one game: the piece of work that makes one log."""

    config: DQNReplay
    game: str
    run: int
    numbers: tuple[int, ...]
    missing: tuple[str, ...]

    @property
    def task(self) -> str:
        return self.game

    @property
    def name(self) -> str:
        return f"run{self.run}"

    @property
    def behaviour(self) -> str:
        return "dqn"

    @property
    def rules(self) -> Protocol:
        return DQN_REPLAY

    @property
    def source(self) -> dict[str, str]:
        return {
            "kind": self.config.kind,
            "location": str(self.folder),
            "files": _spans(list(self.numbers)),
            "damaged": self.config.damaged,
            "padding": str(self.config.padding),
            "step_cap": str(self.config.step_cap),
        }

    @property
    def folder(self) -> Folder:
        return Folder(self.config.source) / self.game / str(self.run) / "replay_logs"

    def write(self, store: str, told: Callable[[int], None]) -> Manifest:
        """See Piece."""
        task = atari.task(self.game)
        files = measure(self.folder, self.numbers, task)
        if not files:
            raise DataError(f"{self.folder}: no file has a row of its own; fetch them again")
        reader = Reader(
            self.folder,
            files,
            task,
            step_cap=self.config.step_cap,
            padding=self.config.padding,
            damaged=self.config.damaged,
        )
        rows = reader.rows()
        return write_rows(
            self, store, task, rows, told=told, extra=lambda: self._extra(files, reader)
        )

    def _extra(self, files: list[File], reader: Reader) -> Mapping[str, Any]:
        return {
            "files": [file.number for file in files],
            "file_rows": [file.rows for file in files],
            "add_counts": [file.add_count for file in files],
            "missing": list(self.missing),
            "padding_rows": reader.padding_rows,
            "damaged_rows": reader.damaged_rows,
            "time_outs": reader.time_outs,
            "rewards": "clipped to [-1, 1]",
        }


def _spans(found: list[int]) -> str:
    """0-3,5 for 0, 1, 2, 3 and 5."""
    starts = [n for n in found if n - 1 not in found]
    stops = [n for n in found if n + 1 not in found]
    pairs = zip(starts, stops, strict=True)
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in pairs) or "none"
