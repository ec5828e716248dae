"""How the scripts beside this one measure: medians of interleaved repeats, one JSON line."""

import json
import platform
import statistics
import time
from collections.abc import Callable


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def alternate(*works: Callable[[], object], repeats: int) -> list[list[float]]:
    """Times each work `repeats` times, in turns, so that a noisy neighbour hits all alike."""
    for work in works:
        work()
    taken: list[list[float]] = [[] for _ in works]
    for _ in range(repeats):
        for times, work in zip(taken, works, strict=True):
            times.append(seconds(work))
    return taken


def report(name: str, **numbers: object) -> None:
    """Prints the line."""
    print(json.dumps({"benchmark": name, "machine": platform.machine(), **numbers}))


median = statistics.median
