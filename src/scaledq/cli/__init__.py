"""`scaledq`: one verb per stage. This is the only package that knows about a command line.

Heavy imports wait inside the verbs, so that `scaledq --help` answers at once.
"""

import signal
import sys
from typing import Annotated

import tyro

from scaledq.cli.bench import Bench
from scaledq.cli.data import Collect, ExportMinari, Ingest, Inspect
from scaledq.cli.finetune import Finetune
from scaledq.cli.play import Evaluate, Report, Watch
from scaledq.cli.select import Select
from scaledq.cli.serve import Export, Serve
from scaledq.cli.study import Study
from scaledq.cli.train import Quickstart, Train
from scaledq.core.errors import ScaledQError

Verb = Annotated[
    Quickstart
    | Collect
    | Ingest
    | ExportMinari
    | Inspect
    | Train
    | Finetune
    | Evaluate
    | Select
    | Study
    | Report
    | Watch
    | Export
    | Serve
    | Bench,
    tyro.conf.OmitSubcommandPrefixes,
]


def main(argv: list[str] | None = None) -> None:
    """Runs a verb. Exits with 0, 1 for our own error, 2 for wrong usage, 130 after Ctrl-C."""
    try:
        _run(_plain(sys.argv[1:] if argv is None else argv))
    except ScaledQError as error:
        print(f"scaledq: error: {error}", file=sys.stderr)
        sys.exit(getattr(error, "code", 1))
    except KeyboardInterrupt:
        print("scaledq: interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        where = f"{error.filename2 or error.filename}: " if error.filename else ""
        reason = f"{where}{error.strerror or error}"
        print(f"scaledq: error: {reason}; check the path and the room on the disk", file=sys.stderr)
        sys.exit(1)


def _plain(args: list[str]) -> list[str]:
    """`--resume auto`, as schedulers' scripts have it, is `--resume`: it goes on where it can."""
    pairs = zip([*args[:1], *args], args, strict=False)
    return [word for before, word in pairs if (before, word) != ("--resume", "auto")]


def _run(args: list[str]) -> None:
    verb, rest = tyro.cli(Verb, args=args, return_unknown_args=True, prog="scaledq")
    if isinstance(verb, Train | Finetune | Collect | Ingest | Select | Serve):
        verb(tuple(rest))
        return
    if rest:
        tyro.cli(Verb, args=args, prog="scaledq")  # says what is wrong with them, and exits
    verb()
