"""How a long piece of work hears that it should stop: it finishes its step, saves, and leaves."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from scaledq.core.errors import ScaledQError

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interrupted(ScaledQError):  # noqa: N818 (not a fault)
    """Work stopped by a signal after it had saved itself; `code` is the process's exit code."""

    def __init__(self, message: str, *, number: int):
        super().__init__(message)
        self.code = 128 + number


@dataclass(slots=True)
class Stop:
    """`number` is the signal that came, or 0."""

    number: int = 0

    def __bool__(self) -> bool:
        return self.number != 0


@contextlib.contextmanager
def listening(*numbers: int) -> Iterator[Stop]:
    """Notes SIGINT, SIGTERM and SIGUSR1 (or `numbers`) instead of dying of them; a second kills.

    SIGUSR1 is what Slurm is asked to send before a job's time is up.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(number: int, frame: object) -> None:
        stop.number = number
        signal.signal(number, before[number])

    before = {n: signal.getsignal(n) for n in numbers or STOPPING}
    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
