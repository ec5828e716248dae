"""How recording goes on in time: every slot plays episode after episode until it has its share.

R slots, over all tasks of a fleet. Each episode has a seed of its own, named by the recording's
seed, the task, the slot in the task and the episode's number: nothing else decides what is played.
"""

from collections.abc import Sequence

import numpy as np

from scaledq.core.seeds import episode_seed
from scaledq.data.sources.action_log import ActionLog
from scaledq.play.envs import Fleet, Steps
from scaledq.run.recorder import Recorder, Tape
from scaledq.run.regenerate import Take, play_again


def shares(steps: int, slots: int) -> np.ndarray:
    """How many of a task's steps each of its slots plays [slots]: equal, but for one."""
    return steps // slots + (np.arange(slots) < steps % slots)


class Stage:
    """A fleet whose every step is recorded.

    Args:
      fleet: R rows, none of them reset yet.
      tapes: one for each row; None where the log is finished already.
      steps: transitions to record of each task.
      seed: of the recording.
    """

    def __init__(
        self, fleet: Fleet, tapes: Sequence[Tape | None], *, steps: int, seed: int
    ) -> None:
        self.fleet, self.steps, self.seed = fleet, steps, seed
        task = fleet.tasks[0]
        self.recorder = Recorder(fleet.rows, task.frame_shape, task.frame_dtype)
        self.recorder.tapes = list(tapes)
        counts = [envs.slots for envs in fleet.envs]
        self._share = np.concatenate([shares(steps, slots) for slots in counts])
        self._slot = np.concatenate([np.arange(slots) for slots in counts])
        self.step = 0
        """Steps that every slot has taken."""
        self._actions = np.zeros(fleet.rows, np.int64)

    @property
    def length(self) -> int:
        """Steps of the slot that has most to play."""
        return int(self._share.max())

    @property
    def recorded(self) -> int:
        """Transitions so far, of all tasks together."""
        return int(np.minimum(self._share, self.step).sum())

    @property
    def total(self) -> int:
        """Transitions to record, of all tasks together."""
        return int(self._share.sum())

    def begin(self) -> None:
        """Starts the first episode of every slot."""
        self._start(self.playing)

    def resume(self, step: int, logs: Sequence[ActionLog]) -> None:
        """Brings every slot back to where it was: plays the last episode of its log again.

        Raises:
          DataError: an episode does not come out as recorded.
        """
        tapes = self.recorder.tapes
        takes = [
            [Take(log, len(log.episodes) - 1)] if tape else []
            for log, tape in zip(logs, tapes, strict=True)
        ]
        for _ in play_again(self.fleet, self.recorder, takes):
            pass
        self.recorder.flush()
        for slot, queue in enumerate(takes):
            for take in queue:
                take.check(self.recorder.tape(slot).played(take.episode.ended))
        self.step = step

    @property
    def playing(self) -> np.ndarray:
        """Slots that have not got their share yet: bool [R]."""
        return self._share > self.step

    def play(self, actions: np.ndarray) -> Steps:
        """One step of every slot, recorded; `fleet.obs` then ends in what it led to.

        `renew` must follow before the next step.
        """
        self.send(actions)
        return self.recv()

    def send(self, actions: np.ndarray) -> None:
        """Starts a step; until `recv` the emulators work, and `fleet.obs` is what it was."""
        self._actions = actions
        self.fleet.send(actions)

    def recv(self) -> Steps:
        """Waits for the step that `send` started, and records it: the rest of `play`."""
        steps = self.fleet.recv()
        self.recorder.add(self.playing, self._actions, steps)
        self.step += 1
        return steps

    def renew(self, steps: Steps) -> None:
        """Starts the next episode where one ended, and stops the slots that have their share."""
        for slot in np.flatnonzero(self.stopped(steps)).tolist():
            self.recorder.cut(slot)
        self._start(self.begun(steps))

    def begun(self, steps: Steps) -> np.ndarray:
        """Slots that `renew` lets begin an episode after this step: bool [R]."""
        return steps.ended & self.playing

    def stopped(self, steps: Steps) -> np.ndarray:
        """Slots that got their share with this step, amid an episode: bool [R]."""
        return (self._share == self.step) & ~steps.ended

    def scores(self) -> list[list[float]]:
        """Takes the raw returns, by task, of the episodes that ended since it was last asked."""
        taken: list[list[float]] = [[] for _ in self.fleet.tasks]
        for task, tape in zip(self.fleet.task_index, self.recorder.tapes, strict=True):
            if tape is not None:
                taken[task] += tape.scores
                tape.scores.clear()
        return taken

    def snapshots(self) -> tuple[list[ActionLog], list[int]]:
        """Every log with its unfinished episode last, and how many rows it has, all on disk."""
        self.recorder.flush()
        pairs = [self.recorder.tape(slot).snapshot() for slot in range(self.fleet.rows)]
        return [log for log, _ in pairs], [rows for _, rows in pairs]

    def finish(self) -> None:
        """Makes every log visible."""
        for tape in self.recorder.tapes:
            if tape is not None:
                tape.finish()

    def _start(self, mask: np.ndarray) -> None:
        if not mask.any():
            return
        names = [task.name for task in self.fleet.tasks]
        seeds = [
            episode_seed(
                self.seed,
                names[self.fleet.task_index[row]],
                int(self._slot[row]),
                len(self.recorder.tape(row).episodes),
            )
            for row in np.flatnonzero(mask).tolist()
        ]
        self.fleet.reset(mask, np.array(seeds))
        self.recorder.begin(mask, np.array(seeds), self.fleet.obs[:, -1])
