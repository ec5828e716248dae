"""How the scripts beside this one measure: medians of interleaved repeats, one JSON line."""

import json
import platform
import statistics
import time
from collections.abc import Callable

Clock = Callable[[], float]


def seconds(work: Callable[[], object], clock: Clock = time.perf_counter) -> float:
    """Wall time of one call, or what another clock says of it."""
    began = clock()
    work()
    return clock() - began


def alternate(
    *works: Callable[[], object], repeats: int, clock: Clock = time.perf_counter
) -> list[list[float]]:
    """Times each work `repeats` times, in turns, so that a noisy neighbour hits all alike."""
    for work in works:
        work()
    taken: list[list[float]] = [[] for _ in works]
    for _ in range(repeats):
        for times, work in zip(taken, works, strict=True):
            times.append(seconds(work, clock))
    return taken


def report(name: str, **numbers: object) -> None:
    """Prints the line."""
    print(json.dumps({"benchmark": name, "machine": platform.machine(), **numbers}))


median = statistics.median
