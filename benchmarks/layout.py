"""What `compute` fields do to the quick scale's training step on this machine.

    python benchmarks/layout.py

Ratios of neighbouring repeats against the defaults (float32, default layout, eager).
"""

import os
from dataclasses import replace
from functools import partial

from scaledq.core.task import Task
from scaledq.run import assemble
from scaledq.run.compute import Compute
from scaledq.study.bench import random_batch
from scaledq.study.scales import QUICK_RUN
from timing import alternate, median, report

FIELDS = {
    "default": Compute(),
    "channels-last": Compute(channels_last=True),
    "channels-last compiled": Compute(channels_last=True, compile=True),
}
STEPS, REPEATS = 5, 9


def main() -> None:
    tasks = tuple(Task(name=name, actions=18) for name in QUICK_RUN.tasks)
    batch = random_batch(QUICK_RUN, tasks)

    def several(compute: Compute) -> None:
        for _ in range(STEPS):
            learners[compute].update(batch)

    learners = {
        compute: assemble.learner(replace(QUICK_RUN, compute=compute), tasks, device="cpu")
        for compute in FIELDS.values()
    }
    times = alternate(*(partial(several, c) for c in FIELDS.values()), repeats=REPEATS)
    plain = times[0]
    report(
        "layout",
        speedup={
            name: round(median([a / b for a, b in zip(plain, mine, strict=True)]), 3)
            for name, mine in zip(FIELDS, times, strict=True)
        },
        default_step_ms=round(1e3 * median(plain) / STEPS, 1),
        batch_size=QUICK_RUN.batch_size,
        load=round(os.getloadavg()[0], 1),
    )


if __name__ == "__main__":
    main()
