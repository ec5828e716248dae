"""How action logs become logs again, bit for bit: the recorded actions in fresh environments.

Whole logs are played by each slot in its own time (`regenerate`). A recording that goes on needs a
fleet whose R slots stand where they were: they play T steps together, and one with less to play
rests first, so that all end in step T, amid episodes that will go on (`play_again`).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from scaledq.core.errors import DataError
from scaledq.core.progress import Progress
from scaledq.data.manifest import Manifest
from scaledq.data.sources.action_log import ActionLog, Ended, Episode, find
from scaledq.data.store import open_store, write_index
from scaledq.play.envs import Fleet
from scaledq.play.script import Cast
from scaledq.play.versions import versions
from scaledq.run.blind import Course, perform
from scaledq.run.blind import episode as play_episode
from scaledq.run.recorder import Recorder, Tape

SLOTS = 16
"""Logs of one game that are played at the same time, at most."""


@dataclass(frozen=True, slots=True)
class Take:
    """One episode to be played again, the number-th of `log`."""

    log: ActionLog
    number: int

    @property
    def episode(self) -> Episode:
        return self.log.episodes[self.number]

    def check(self, played: Episode | None) -> None:
        """Compares what came out; raises DataError that names the episode and the difference."""
        header, want = self.log.header, self.episode
        fault = "it looks otherwise"
        if played is None:
            fault = f"it goes on after its {len(want)} steps"
        elif (played.ended, played.checksum) == (want.ended, want.checksum):
            return
        elif played.ended != want.ended or len(played) != len(want):
            fault = f"{_how(played)} after {len(played)} steps, not {_how(want)} after {len(want)}"
        raise DataError(
            f"episode {self.number} of {header.task.name}/{header.name} does not come out as "
            f"recorded ({fault}): the action log is damaged, fetch it again"
        )


def regenerate(
    source: Path,
    store: Path,
    *,
    episodes: slice = slice(None),
    tasks: Sequence[str] | None = None,
    threads: int = 0,
) -> list[Manifest]:
    """Plays action logs again and writes the logs they came from, one game after another.

    Args:
      source: an action log, or a folder of them: a store, too.
      episodes: which of every log, by their place in it.
      tasks: which games; None: all.
      threads: of the emulators; 0: one a core.

    Raises:
      DataError: no such action log; an emulator or ROM other than the one that recorded (naming
        both); an episode that does not come out as recorded; a log that the store has already.
    """
    groups: dict[object, list[ActionLog]] = {}
    for task, logs in find(source, tasks=tasks).items():
        for log in logs:
            check_versions(log.header.versions, task)
            rules = replace(log.header.protocol, name="", epsilon=0.0)
            part = replace(log, episodes=log.episodes[episodes])
            if part.steps:
                groups.setdefault((task, rules), []).append(part)
    if not groups:
        raise DataError(f"no log of {source} has episodes {episodes.start}:{episodes.stop}")
    manifests: list[Manifest] = []
    done, total = 0, sum(log.steps for logs in groups.values() for log in logs)
    with Progress("regenerate", total) as progress:
        for logs in groups.values():
            for steps in _regenerate_game(logs, store, manifests, threads=threads):
                done += steps
                progress.show(done, logs[0].header.task.name)
    write_index(open_store(store))
    return manifests


def check_versions(recorded: Mapping[str, str], task: str) -> None:
    """Raises DataError, naming both, where this machine's emulator or ROM is another."""
    here = versions(task)
    for name in sorted({*recorded, *here}):
        then, now = recorded.get(name, "none"), here.get(name, "none")
        if then != now:
            raise DataError(
                f"action log of {task}: recorded with {name} {then}, this machine has {now}; "
                "only the same gives the same frames"
            )


def play_again(
    fleet: Fleet, recorder: Recorder, takes: Sequence[Sequence[Take]]
) -> Iterator[tuple[int, Take]]:
    """Plays takes[r] in slot r, one after another, through the recorder.

    Yields (slot, take) when a take's last step was played and compared, before the slot's next one
    begins; one that was cut is still open, and is the caller's to cut and to compare.

    Raises:
      DataError: see Take.check.
    """
    plan = _Plan(takes)
    live = np.zeros(len(takes), bool)
    current: dict[int, Take] = {}
    for step in range(plan.steps + 1):
        starting = plan.starts.get(step, {})
        if starting:
            live[list(starting)] = True
            current |= starting
            _start(fleet, recorder, starting)
        if step == plan.steps:
            return
        actions = plan.actions[:, step]
        steps = fleet.step(actions, live=_busy(fleet, live))
        played = recorder.add(live, actions, steps)
        ends = plan.ends.get(step, {})
        for slot, episode in played.items():
            current[slot].check(episode)
        for slot in ends.keys() - played.keys():
            if ends[slot].episode.ended != Ended.CUT:
                ends[slot].check(None)
        yield from ends.items()


class _Plan:
    """When each take starts and ends, and what every slot does in every step."""

    def __init__(self, takes: Sequence[Sequence[Take]]) -> None:
        lengths = [sum(len(take.episode) for take in queue) for queue in takes]
        self.steps = max(lengths)
        self.actions = np.zeros((len(takes), self.steps), np.int64)
        self.starts: dict[int, dict[int, Take]] = {}
        self.ends: dict[int, dict[int, Take]] = {}
        for slot, queue in enumerate(takes):
            at = self.steps - lengths[slot]
            for take in queue:
                self.starts.setdefault(at, {})[slot] = take
                stop = at + len(take.episode)
                self.actions[slot, at:stop] = take.episode.actions
                if stop > at:
                    self.ends.setdefault(stop - 1, {})[slot] = take
                at = stop


def _start(fleet: Fleet, recorder: Recorder, starting: Mapping[int, Take]) -> None:
    """Starts the takes, each in its slot."""
    mask, seeds = np.zeros(fleet.rows, bool), np.zeros(fleet.rows, np.int64)
    for slot, take in starting.items():
        mask[slot], seeds[slot] = True, take.episode.seed
    fleet.reset(mask, seeds[mask])
    recorder.begin(mask, seeds[mask], fleet.obs[:, -1])


def _busy(fleet: Fleet, live: np.ndarray) -> np.ndarray:
    """Which tasks [N] have a row that is live [R]."""
    return np.bincount(fleet.task_index[live], minlength=len(fleet.envs)) > 0


def _regenerate_game(
    logs: Sequence[ActionLog], store: Path, done: list[Manifest], *, threads: int
) -> Iterator[int]:
    """Yields numbers of steps as they were played; manifests of finished logs join `done`."""
    header = logs[0].header
    queues = _share(logs, min(len(logs), SLOTS))
    courses = [_again(queue, store, done) for queue in queues]
    with ExitStack() as opened:
        for course in courses:
            opened.callback(course.close)
        cast = Cast([header.task.name] * len(queues), header.protocol, threads=threads)
        opened.callback(cast.close)
        yield from perform(cast, courses)


def _again(logs: Sequence[ActionLog], store: Path, done: list[Manifest]) -> Course:
    """Plays logs again, one after another; their manifests join those that are done."""
    for log in logs:
        with closing(Tape(store, log.header)) as tape:
            for number, recorded in enumerate(log.episodes):
                played = yield from play_episode(tape, recorded.seed, recorded.actions)
                goes_on = played.ended == Ended.CUT != recorded.ended
                Take(log, number).check(None if goes_on else played)
            done.append(tape.finish())


def _share(logs: Sequence[ActionLog], slots: int) -> list[list[ActionLog]]:
    """Deals logs out, longest first, each to the slot that has least to play."""
    queues: list[list[ActionLog]] = [[] for _ in range(slots)]
    for log in sorted(logs, key=lambda log: -log.steps):
        min(queues, key=lambda queue: sum(other.steps for other in queue)).append(log)
    return queues


def _how(episode: Episode) -> str:
    return str(episode.ended.name).lower().replace("|", " and ")
