"""How a source becomes logs of a store: its pieces side by side, each whole or not at all.

Every piece gets a process of its own, so that a decoder that crashes takes only its piece with it,
and memory goes back when it is done. A store's folder takes one ingest at a time.
"""

import contextlib
import multiprocessing as mp
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol, runtime_checkable

from scaledq.core.config import from_json, to_json
from scaledq.core.errors import DataError, ScaledQError
from scaledq.core.files import locked
from scaledq.core.progress import Progress
from scaledq.data import zarr
from scaledq.data.manifest import Manifest, read_manifest
from scaledq.data.sources.folder import reading
from scaledq.data.sources.piece import Piece
from scaledq.data.store import open_store, write_index
from scaledq.run.cluster import On, spread

PORTION = 10_000
"""Rows after which a piece says how far it is."""


@runtime_checkable
class Source(Protocol):
    """A config of `data/sources` that can say which pieces it consists of."""

    def pieces(self) -> Sequence[Piece]: ...


@dataclass(frozen=True, slots=True)
class Summary:
    """What an ingest did."""

    written: tuple[Manifest, ...]
    skipped: tuple[str, ...]
    """`task/log` of those that the store had already, from the same source and choices."""

    @property
    def rows(self) -> int:
        return sum(manifest.counts.rows for manifest in self.written)

    def __str__(self) -> str:
        logs = f"{len(self.written)} logs, {self.rows:,} rows"
        return logs + (f"; {len(self.skipped)} logs were there already" if self.skipped else "")


def ingest(
    source: Source, store: str | Path, *, workers: int | None = None, on: On = "local"
) -> Summary:
    """Writes every log of `source` that `store` does not have.

    Args:
      store: a local folder, or a gs://, s3:// or memory:// URL.
      workers: pieces under way at the same time; None: one a core. On Ray, its CPUs decide.
      on: this machine, or the Ray cluster of the environment (`RAY_ADDRESS`), or a local one.

    Raises:
      ScaledQError: the first thing that went wrong. Logs that were finished by then stay; those
        under way stay invisible, and start again next time.
      RunError: another ingest writes to this store's folder, or Ray is not installed.
    """
    root = str(store).rstrip("/")
    pieces = source.pieces()
    _unique(pieces)
    with _alone(root):
        todo = [piece for piece in pieces if not _finished(piece, root)]
        skipped = tuple(f"{p.task}/{p.name}" for p in pieces if p not in todo)
        with Progress("ingest", len(todo)) as progress:
            if on == "ray":
                work = _on_ray(todo, root)
            elif root.startswith("memory://"):
                work = (p.write(root, lambda rows: None) for p in todo)
            else:
                work = _side_by_side(todo, root, workers or os.cpu_count() or 1, progress)
            written = []
            for manifest in work:
                written.append(manifest)
                progress.show(len(written), f"{manifest.task.name}/{manifest.name}")
        write_index(open_store(root))
    return Summary(tuple(written), skipped)


def _unique(pieces: Sequence[Piece]) -> None:
    seen = set()
    for piece in pieces:
        if (piece.task, piece.name) in seen:
            raise DataError(f"the source has two logs {piece.task}/{piece.name}; ingest them apart")
        seen.add((piece.task, piece.name))


@contextlib.contextmanager
def _alone(root: str) -> Iterator[None]:
    """Keeps a second ingest out of a local store; a bucket has no locks."""
    place = zarr.location(root)
    with contextlib.ExitStack() as held:
        if place["driver"] == "file":
            with reading(f"cannot write to {root}", "choose another folder"):
                held.enter_context(locked(Path(place["path"])))
        yield


def _finished(piece: Piece, root: str) -> bool:
    """Whether the store has this log; raises DataError if it has another one of that name."""
    where = f"{root}/{piece.task}/{piece.name}"
    with zarr.naming(f"log {where}", "check the path and the connection"):
        place = zarr.below(zarr.location(root), piece.task, piece.name)
        found = zarr.open_folder(place).read("zarr.json").result()
    if found.state != "value":
        return False
    there = read_manifest(found.value, f"log {where}").source
    for choice in sorted({*there, *piece.source} - {"location"}):
        if there.get(choice) != piece.source.get(choice):
            raise DataError(
                f"log {where} is finished already with {choice} {there.get(choice)}, asked for "
                f"{piece.source.get(choice)}; choose another store, or delete that log"
            )
    return True


def _side_by_side(
    todo: Sequence[Piece], root: str, workers: int, progress: Progress
) -> Iterator[Manifest]:
    """Runs each piece in a process of its own, `workers` at a time; yields as they finish."""
    queue, running = list(todo), dict[Connection, tuple[Piece, BaseProcess]]()
    rows: dict[Connection, int] = {}
    done = 0
    try:
        while queue or running:
            while queue and len(running) < workers:
                piece = queue.pop(0)
                ours, process = _start(piece, root)
                running[ours] = (piece, process)
            for ours in wait(list(running)):
                assert isinstance(ours, Connection)
                piece, process = running[ours]
                word = _hear(ours, piece, process)
                if isinstance(word, Manifest):
                    del running[ours]
                    rows.pop(ours, None)
                    done += 1
                    yield word
                else:
                    rows[ours] = word
                    progress.show(done, f"{sum(rows.values()):,} rows under way")
    finally:
        for _, process in running.values():
            process.kill()
            process.join()


def _start(piece: Piece, root: str) -> tuple[Connection, BaseProcess]:
    ours, theirs = mp.get_context("spawn").Pipe(duplex=False)
    process = mp.get_context("spawn").Process(
        target=_work, args=(piece, root, theirs), name=f"{piece.task}/{piece.name}", daemon=True
    )
    process.start()
    theirs.close()
    return ours, process


def _hear(ours: Connection, piece: Piece, process: BaseProcess) -> Manifest | int:
    """The next word of a piece: the rows it has so far, or its manifest when it is done."""
    try:
        word = ours.recv()
    except EOFError:
        process.join()
        raise DataError(
            f"{piece.task}/{piece.name}: its process died (exit code {process.exitcode}): it was "
            "killed, memory ran out, or its file crashes the decoder; run the same command again"
        ) from None
    if isinstance(word, ScaledQError):
        process.join()
        raise word
    if isinstance(word, bytes):
        process.join()
        return from_json(Manifest, word)
    return word


def _work(piece: Piece, root: str, theirs: Connection) -> None:
    """Writes one piece and says so; dies with the process that asked for it."""
    parent = mp.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    told = _Teller(theirs)
    try:
        theirs.send(to_json(piece.write(root, told)))
    except ScaledQError as error:
        theirs.send(error)
    except KeyboardInterrupt:
        os._exit(130)


class _Teller:
    """Passes on how many rows a piece has, now and then."""

    def __init__(self, theirs: Connection):
        self.theirs, self.said = theirs, 0

    def __call__(self, rows: int) -> None:
        if rows - self.said >= PORTION:
            self.theirs.send(rows)
            self.said = rows


def _on_ray(todo: Sequence[Piece], root: str) -> Iterator[Manifest]:
    """Runs each piece as a task of a Ray cluster, whose machines all reach source and store."""
    pieces = {f"{piece.task}/{piece.name}": (piece, root) for piece in todo}
    for _, word in spread(_remote, pieces):
        yield from_json(Manifest, word)


def _remote(piece: Piece, root: str) -> bytes:
    return to_json(piece.write(root, lambda rows: None))
