"""How play becomes logs: every slot of a fleet writes a log and its action log as it plays.

R slots. Rows go to the log's writer as they come; only a short block of them waits in memory.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scaledq.core.errors import DataError
from scaledq.data.manifest import Manifest
from scaledq.data.sources.action_log import NAME, ActionLog, Checksum, Ended, Episode, Header
from scaledq.data.writer import LogWriter
from scaledq.play.envs import Steps

BLOCK = 64
"""Rows that a slot gathers before they are written and added to the episode's checksum."""


class Tape:
    """One log under way: its writer, its episodes so far, and the episode being played.

    Args:
      store: the folder of the store.
      header: what the log says of itself.
      kept: an earlier snapshot to go on from; the rows of its last episode, which is not over, are
        in the log already, and are only compared when `add` brings them again.
      rows: how many rows the log had at that snapshot.

    Raises:
      DataError: as LogWriter.
    """

    def __init__(
        self, store: Path, header: Header, *, kept: Sequence[Episode] = (), rows: int = 0
    ) -> None:
        self.header, self.episodes = header, list(kept[:-1])
        self.scores: list[float] = []
        """Raw returns of the episodes that ended, for whoever wants to tell them."""
        self.folder = store / header.task.name / header.name
        self.begin(0)
        self._known = len(kept[-1]) if kept else 0
        self._writer = LogWriter(
            store,
            header.task,
            header.name,
            behaviour=header.behaviour,
            protocol=header.protocol,
            source=header.source,
            versions=header.versions,
            resume=rows,
        )

    def begin(self, seed: int) -> None:
        """Starts an episode."""
        self._seed, self._score, self._checksum = seed, 0.0, Checksum()
        self._actions: list[np.ndarray] = []

    def add(
        self,
        frames: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
    ) -> None:
        """Appends k rows to the episode: frames [k *frame], the rest [k]."""
        new = slice(min(self._known, len(action)), None)
        self._known -= new.start
        columns = (action, reward, terminated, truncated)
        self._writer.append(frames[new], *(column[new] for column in columns))
        self._checksum.add(frames, reward, terminated, truncated)
        self._actions.append(action[action >= 0].copy())
        self._score += float(reward.sum())

    def played(self, ended: Ended) -> Episode:
        """The episode as far as it has been played."""
        actions = np.concatenate([np.empty(0, np.int16), *self._actions])
        return Episode(self._seed, ended, self._checksum.value, actions)

    def end(self, ended: Ended) -> Episode:
        """Closes the episode; one without a step leaves no trace."""
        episode = self.played(ended)
        if len(episode):
            self.episodes.append(episode)
        if ended != Ended.CUT:
            self.scores.append(self._score)
        self.begin(0)
        return episode

    def snapshot(self) -> tuple[ActionLog, int]:
        """The log as it is, the episode under way being the last one; and its rows, now on disk."""
        episodes = (*self.episodes, self.played(Ended.CUT))
        return ActionLog(self.header, episodes), self._writer.flush()

    @property
    def rows(self) -> int:
        """Of the log so far."""
        return len(self._writer)

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows start..stop-1 of one of the log's arrays, once they are on disk."""
        return self._writer.read(name, start, stop)

    def finish(self) -> Manifest:
        """Writes the action log and makes the log visible; raises DataError if the disk is full."""
        try:
            ActionLog(self.header, tuple(self.episodes)).save(self.folder / NAME)
        except OSError as error:
            raise DataError(
                f"cannot write {self.folder / NAME}: {error.strerror or error}; free some space"
            ) from error
        return self._writer.finish()

    def close(self) -> None:
        """Stops; an unfinished log stays invisible."""
        self._writer.close()


class Recorder:
    """Hands what R slots see and do to their tapes.

    `tapes[r]` is slot r's, to be set before the slot begins an episode that counts.
    """

    def __init__(self, slots: int, frame_shape: tuple[int, ...], frame_dtype: str) -> None:
        self.tapes: list[Tape | None] = [None] * slots
        # Slot r holds _held[r] whole rows; the frame after them is what it sees now.
        self._held = np.zeros(slots, np.int64)
        self._frames = np.zeros((slots, BLOCK + 1, *frame_shape), frame_dtype)
        self._action = np.zeros((slots, BLOCK + 1), np.int16)
        self._reward = np.zeros((slots, BLOCK + 1), np.float32)
        self._terminated = np.zeros((slots, BLOCK + 1), bool)
        self._truncated = np.zeros((slots, BLOCK + 1), bool)

    def tape(self, slot: int) -> Tape:
        tape = self.tapes[slot]
        assert tape is not None, f"slot {slot} has no tape"
        return tape

    def begin(self, mask: np.ndarray, seeds: np.ndarray, frames: np.ndarray) -> None:
        """Episodes start in the slots of `mask` [R]: seeds [mask.sum()], frames [R *frame]."""
        for slot, seed in zip(np.flatnonzero(mask).tolist(), seeds, strict=True):
            self.tape(slot).begin(int(seed))
            self._frames[slot, 0] = frames[slot]

    def add(self, mask: np.ndarray, actions: np.ndarray, steps: Steps) -> dict[int, Episode]:
        """One step of the slots in `mask` [R]; returns the episodes that it ended, by slot."""
        slots = np.flatnonzero(mask)
        at = self._held[slots]
        self._action[slots, at] = actions[slots]
        self._reward[slots, at] = steps.reward[slots]
        self._terminated[slots, at] = steps.terminated[slots]
        self._truncated[slots, at] = steps.truncated[slots]
        self._frames[slots, at + 1] = steps.frames[slots]
        self._held[slots] += 1
        for slot in slots[at + 1 == BLOCK].tolist():
            self._pass_on(slot)
        return {slot: self._close(slot, steps) for slot in slots[steps.ended[slots]].tolist()}

    def cut(self, slot: int) -> Episode:
        """Ends a slot's episode where it is: its last row will say nothing of what came next."""
        self._pass_on(slot)
        return self.tape(slot).end(Ended.CUT)

    def flush(self) -> None:
        """Hands every row to its tape."""
        for slot, held in enumerate(self._held):
            if held:
                self._pass_on(slot)

    def close(self) -> None:
        for tape in self.tapes:
            if tape is not None:
                tape.close()

    def _close(self, slot: int, steps: Steps) -> Episode:
        """Adds the row of the closing observation and ends the episode."""
        at = self._held[slot]
        self._action[slot, at], self._reward[slot, at] = -1, 0
        self._terminated[slot, at] = self._truncated[slot, at] = False
        self._held[slot] += 1
        self._pass_on(slot)
        terminated, truncated = int(steps.terminated[slot]), int(steps.truncated[slot])
        return self.tape(slot).end(Ended(terminated | truncated << 1))

    def _pass_on(self, slot: int) -> None:
        held = self._held[slot]
        if not held:
            return
        arrays = (self._action, self._reward, self._terminated, self._truncated)
        self.tape(slot).add(self._frames[slot, :held], *(array[slot, :held] for array in arrays))
        self._frames[slot, 0] = self._frames[slot, held]
        self._held[slot] = 0
