"""Which rank of a distributed run is to blame when its processes stop answering each other.

A collective that fails names a socket, and one that hangs names nothing. So every rank says once
a second, in the store where they met, that it lives and how far it has come; whoever fails says
why. Who then waits in vain can tell the others' story.
"""

import json
import os
import socket
import sys
import threading
import time
from datetime import timedelta

from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]

BEAT = 1.0
"""Seconds between two signs of life."""
SILENT = 4.0
"""Seconds without one after which a process is gone, once a connection to it broke."""
LOADING, COMPUTING = "waiting for data", "computing"
LINGER = 4.0
"""Seconds that a failing rank which keeps the store itself stays, so that all hear its reason."""


class Watch:
    """One rank's view of all; `at` is told by the rank itself.

    Args:
      store: where all ranks meet; used by this object alone.
      timeout: seconds without progress after which the process ends itself, naming who stands
        farthest behind.
    """

    def __init__(self, store: Store, *, rank: int, world: int, timeout: float):
        self.store, self.rank, self.world, self.timeout = store, rank, world, timeout
        self._step, self._doing, self._since = -1, LOADING, time.monotonic()
        self._beats = 0
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._name = f"process {os.getpid()} on {socket.gethostname()}"
        store.set_timeout(timedelta(seconds=max(timeout, 10.0)))
        self._beat()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._thread.start()

    def at(self, step: int, doing: str) -> None:
        """Notes progress: this rank is `doing` step `step`."""
        self._step, self._doing, self._since = step, doing, time.monotonic()

    def fail(self, reason: str) -> None:
        """Tells the others why this rank leaves; unheard if the store is gone."""
        with self._lock:
            try:
                self.store.set(f"fate/{self.rank}", reason)
            except RuntimeError:  # whoever kept the store has died first: nobody is left to tell
                return

    def blame(self) -> str | None:
        """Who made a collective fail, as a sentence; None where every rank still lives."""
        self._since = time.monotonic() + SILENT  # to ask around is no standstill
        try:
            before, deadline = self._all(), time.monotonic() + SILENT
            while time.monotonic() < deadline:
                told = self._fates()
                if told:
                    return "; ".join(told)
                time.sleep(BEAT / 4)
            after = self._all()
        except RuntimeError:
            return "the process that all ranks met at (torchrun, or rank 0) has died"
        dead = [rank for rank in range(self.world) if before[rank][0] == after[rank][0]]
        gone = [
            f"rank {rank} of {self.world} ({after[rank][3]}) gives no sign of life: it has died, "
            "hangs or is cut off"
            for rank in dead
        ]
        return "; ".join(gone) if gone else None

    def close(self) -> None:
        self._closed.set()
        self._thread.join()

    def _fates(self) -> list[str]:
        with self._lock:
            ranks = [r for r in range(self.world) if r != self.rank]
            left = [r for r in ranks if self.store.check([f"fate/{r}"])]
            return [
                f"rank {r} of {self.world} stopped: {self.store.get(f'fate/{r}').decode()}"
                for r in left
            ]

    def _beat(self) -> None:
        self._beats += 1
        word = json.dumps([self._beats, self._step, self._doing, self._name])
        with self._lock:
            self.store.set(f"beat/{self.rank}", word)

    def _all(self) -> list[tuple[int, int, str, str]]:
        """(beats, step, doing, name) of every rank."""
        with self._lock:
            words = [json.loads(self.store.get(f"beat/{rank}")) for rank in range(self.world)]
        return [(beats, step, doing, name) for beats, step, doing, name in words]

    def _watch(self) -> None:
        told: list[str] = []
        while not self._closed.wait(min(BEAT, self.timeout / 4)):
            try:
                self._beat()
                if told:  # for a beat already: this rank waits for one that has left
                    self._end("; ".join(told))
                told = self._fates()
                if self._late():
                    reason = self._laggard()
                    if self._late():  # still, after asking twice who lives
                        self._end(reason)
            except RuntimeError:
                self._end("the process that all ranks met at (torchrun, or rank 0) has died")

    def _late(self) -> bool:
        return time.monotonic() - self._since > self.timeout

    def _laggard(self) -> str:
        """Who stands farthest behind; a rank that cannot even beat is farther behind than all."""
        before = self._all()
        time.sleep(2 * BEAT)
        now = self._all()
        silent = [r for r in range(self.world) if before[r][0] == now[r][0] and r != self.rank]
        places = [(step, doing == COMPUTING) for _, step, doing, _ in now]
        behind = [r for r in range(self.world) if places[r] == min(places)]
        blamed = silent or behind
        told = [f"rank {r} of {self.world} ({now[r][3]})" for r in blamed]
        states = "does not answer" if silent else f"is {now[behind[0]][2]}"
        return (
            f"no progress for {self.timeout:.0f} s: {', '.join(told)} {states} at step "
            f"{now[blamed[0]][1] + 1:,}"
        )

    def _end(self, reason: str) -> None:
        """The main thread cannot be woken from a collective: the process ends here."""
        if self._closed.is_set():
            return
        print(
            f"scaledq: error: rank {self.rank}: {reason}; go on from the newest checkpoint with "
            "--resume",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)
