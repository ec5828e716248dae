"""Which failures are the user's to mend: one line each: what was wanted, what came, what to do."""

import difflib
from collections.abc import Iterable


class ScaledQError(Exception):
    """The root of every error that the command line prints as one line and exit code 1."""


class ConfigError(ScaledQError):
    """A configuration that is unknown, mistyped or contradicts itself."""


class DataError(ScaledQError):
    """A store, a log or a source that is missing, damaged or of the wrong kind."""


class TaskError(ScaledQError):
    """A task that does not exist, or that a run or an environment cannot take."""


class RunError(ScaledQError):
    """A run folder or a checkpoint that cannot be used as asked."""


class DivergedError(ScaledQError):
    """Training met a loss or a gradient norm that is not finite."""


def suggest(word: str, candidates: Iterable[str]) -> str:
    """Ends a message about an unknown `word`: the nearest candidates, or all of a short list."""
    known = sorted(candidates)
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
    lower = {name.lower(): name for name in known}
    if not near:
        near = [lower[m] for m in difflib.get_close_matches(word.lower(), lower, n=3, cutoff=0.6)]
    if near:
        return f"did you mean {' or '.join(near)}?"
    shown = ", ".join(known[:12]) + (f" ... ({len(known)} in all)" if len(known) > 12 else "")
    return f"known: {shown or 'none'}"
