"""What a run says of itself while it works: one JSON object a line, in metrics.jsonl."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from scaledq.core.errors import RunError
from scaledq.core.files import write_atomic


class Journal:
    """Appends rows to a JSON-lines file; every row is on disk when `write` returns."""

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: Mapping[str, Any]) -> None:
        """Adds a row; raises RunError if the disk is full."""
        try:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        except OSError as error:
            raise RunError(
                f"cannot write {self.path}: {error.strerror or error}; free some space and resume"
            ) from error

    def close(self) -> None:
        """Ends the writing; what `write` did not get onto the disk stays out of the file."""
        with contextlib.suppress(OSError):
            self._file.close()


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSON-lines file, in order; a last line cut off by a crash is left out.

    Raises:
      RunError: a damaged line before the last one, with its number.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except UnicodeDecodeError as error:
        raise RunError(f"{path}: byte {error.start} is no text; restore or delete it") from error
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines) and not line.endswith("\n"):
                return
            raise RunError(f"{path}: line {number} is not JSON; restore or delete it") from error
        if not isinstance(row, dict):
            raise RunError(f"{path}: line {number} is no JSON object; restore or delete it")
        yield row


def retain(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Rewrites the file with the rows that `keep` wants; a resumed run says the others again."""
    if path.exists():
        kept = [json.dumps(row) + "\n" for row in read(path) if keep(row)]
        write_atomic(path, "".join(kept))
