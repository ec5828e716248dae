"""How long a training step waits for its batch, with quickstart's network on real Atari logs.

Bar: below 5 % of the step, on two cores.
"""

import tempfile
import time
from pathlib import Path

from atari_logs import HARD, collect
from scaledq.core.batch import Batch
from scaledq.data.loader import Loader
from scaledq.data.view import View
from scaledq.run import assemble
from scaledq.study.scales import QUICK_RUN
from timing import median, report

ROWS, WARM, STEPS, REPEATS = 4_096, 10, 40, 3


def main() -> None:
    cfg = QUICK_RUN
    with tempfile.TemporaryDirectory(prefix="scaledq-") as folder:
        store = collect(Path(folder) / "store", HARD, rows=ROWS)
        loader = Loader(
            [store],
            HARD,
            view=View(),
            transitions=cfg.transitions,
            batch_size=cfg.batch_size,
            seed=0,
        )
        learner = assemble.learner(cfg, loader.tasks, device="cpu")
        shares, steps = [], []
        for repeat in range(REPEATS):
            waited = began = 0.0
            for step, batch in enumerate(loader.stream(repeat, repeat + WARM + STEPS)):
                if step == WARM:
                    waited, began = 0.0, time.perf_counter()
                waited += loader.waited
                assert isinstance(batch, Batch)
                learner.update(batch)
            taken = time.perf_counter() - began
            shares.append(waited / taken)
            steps.append(taken / STEPS)
        report(
            "loader",
            wait_share_of_step=round(median(shares), 4),
            step_ms=round(1e3 * median(steps), 1),
            batch_size=cfg.batch_size,
            frames_a_sample=cfg.transitions.stack + cfg.transitions.n_step,
        )


if __name__ == "__main__":
    main()
