"""How a run saves itself without waiting for the disk: it copies its state, and a thread writes."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import distributed as dist

from scaledq.run.checkpoint import State, save_checkpoint, save_shards


class Saver:
    """Writes one checkpoint at a time into `folder`.

    Args:
      first: whether this process writes where the state is the same on all.
      group: where states are spread over ranks: of all of them, for this alone.
    """

    def __init__(
        self, folder: Path, *, keep: int, first: bool = True, group: dist.ProcessGroup | None = None
    ):
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="saver")
        self._pending: Future[Path] | None = None
        write = partial(save_shards, group=group) if group is not None else save_checkpoint
        self._write = partial(write, folder, keep=keep)
        self._takes_part = first or group is not None

    def save(self, state: State) -> None:
        """Returns when the state is copied and may change; first the one before must be written.

        Raises:
          RunError: the one before could not be written.
        """
        self.wait()
        if self._takes_part:
            copies = {k: t.detach().to("cpu", copy=True) for k, t in state.tensors.items()}
            self._pending = self._thread.submit(self._write, state=replace(state, tensors=copies))

    def check(self) -> None:
        """Raises what the last checkpoint met, if that is known by now."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Returns when the last checkpoint is in its place; raises RunError if it cannot be."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: type | None, *fault: object) -> None:
        self._thread.shutdown(wait=True)
        if kind is None:
            self.wait()
