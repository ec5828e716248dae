"""From a store to a page about it: reads what `data` knows and hands it to `report`."""

from collections.abc import Sequence
from math import prod
from pathlib import Path

from scaledq.core.errors import DataError
from scaledq.core.files import write_atomic
from scaledq.core.progress import Progress
from scaledq.data.inspect import Summary
from scaledq.data.portrait import Shot, shots
from scaledq.data.store import Log, Store
from scaledq.report.store_page import Sample, StoreData, TaskData, page

PICTURES = 8
"""Frames of each task, where frames are pictures."""
STRETCH = 192
"""Rows of which each task's vectors are drawn, side by side."""


def store_page(store: Store, summaries: Sequence[Summary], out: Path) -> Path:
    """Writes the page about `store` to `out`; it needs neither the store nor a network then.

    Raises:
      DataError: a damaged frame, or a page that cannot be written.
    """
    tasks = []
    with Progress(f"draw {store.path}", len(summaries)) as bar:
        for number, summary in enumerate(summaries, 1):
            tasks.append(_task(summary, store[summary.task]))
            bar.show(number, summary.task)
    text = page(StoreData(path=store.path, tasks=tasks, unfinished=store.unfinished))
    try:
        write_atomic(out, text)
    except OSError as error:
        raise DataError(f"cannot write {out}: {error.strerror}; choose another file") from error
    return out


def _task(summary: Summary, logs: tuple[Log, ...]) -> TaskData:
    return TaskData(
        name=summary.task,
        logs=summary.logs,
        rows=summary.rows,
        transitions=summary.transitions,
        episodes=summary.episodes,
        return_mean=summary.return_mean,
        return_best=summary.return_best,
        return_tenths=summary.return_tenths,
        return_points=summary.return_points,
        rewards=summary.rewards,
        actions=summary.actions,
        bytes_a_frame=summary.bytes_a_frame,
        facts=_facts(summary, logs),
        samples=_samples(logs),
    )


def _facts(summary: Summary, logs: tuple[Log, ...]) -> dict[str, str]:
    task = logs[0].task
    shape = " x ".join(map(str, task.frame_shape))
    names = [log.name for log in logs]
    facts = {
        "Frame": f"{shape} {task.frame_dtype}",
        "Actions": f"{task.actions}",
        "Behaviour": ", ".join(summary.behaviours),
        "Protocol": ", ".join(summary.protocols),
        "Logs": f"{names[0]} to {names[-1]}" if names[1:] else names[0],
    }
    if summary.bytes_a_frame:
        size = prod(task.frame_shape) * logs[0].frames.dtype.numpy_dtype.itemsize
        facts["Compression"] = f"{size / summary.bytes_a_frame:,.1f} : 1"
    sources: dict[str, list[str]] = {}
    for source in summary.sources:
        for name, value in source.items():
            if value not in sources.setdefault(name, []):
                sources[name].append(value)
    shown = {name: [v[:60] for v in values] for name, values in sources.items()}
    for name, values in shown.items():
        more = f" and {len(values) - 3} more" if len(values) > 3 else ""
        facts[f"Source: {name.replace('_', ' ')}"] = ", ".join(values[:3]) + more
    return facts


def _samples(logs: tuple[Log, ...]) -> tuple[Sample, ...]:
    if len(logs[0].task.frame_shape) in (2, 3):
        found = shots(logs, PICTURES)
        return tuple(Sample(_caption(shot), shot.frames[0]) for shot in found)
    found = shots(logs, 1, length=STRETCH)
    return tuple(Sample(_caption(shot), shot.frames, vectors=True) for shot in found)


def _caption(shot: Shot) -> str:
    last = f" to {shot.row + len(shot.frames) - 1:,}" if len(shot.frames) > 1 else ""
    return f"{shot.log}, row {shot.row:,}{last}"
