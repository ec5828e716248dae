"""What a decision transformer's memory costs in score: the same run with windows begun less often.

    python benchmarks/keep.py                    a small one, trained here on two toys (a minute)
    python benchmarks/keep.py RUN --episodes 64  a run of yours, on all of its tasks

Each `keep` plays the same episodes. Per task and keep: the mean score and its standard error over
episodes; and the difference to the published rule with the standard error of the paired episodes.
Nothing is written into the run.
"""

import argparse
import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from scaledq.core.protocol import Protocol
from scaledq.data.sequences import Sequences
from scaledq.data.writer import LogWriter
from scaledq.learn.optim import OptimConfig
from scaledq.learn.sequence import DecisionTransformer
from scaledq.nets.transformer import TransformerConfig
from scaledq.play.rollout import play
from scaledq.play.toy import random_log, task
from scaledq.run.config import RunConfig
from scaledq.run.evaluate import SEED
from scaledq.run.folder import Run, open_run
from scaledq.run.train import train
from timing import report

TOYS = ("chain", "mirror")


def trained(folder: Path) -> Run:
    """A transformer of four steps' context that has seen random play of two toys."""
    for name in TOYS:
        log = random_log(name, 3_000, seed=0)
        with LogWriter(
            folder / "store", task(name), "log", behaviour="random", protocol=None, source={},
            versions={},
        ) as writer:  # fmt: skip
            writer.append(log.frames, log.action, log.reward, log.terminated, log.truncated)
            writer.finish()
    cfg = RunConfig(
        tasks=tuple(f"toy:{name}" for name in TOYS),
        stores=(str(folder / "store"),),
        objective=DecisionTransformer(low=0, high=6, return_width=0.2),
        encoder=TransformerConfig(width=32, heads=2, layers=2, patch=8, dropout=0.0),
        sequences=Sequences(context=4, shift=0),
        optim=OptimConfig(lr=3e-3, eps=1e-8, clip=1.0, warmup=10),
        batch_size=64,
        steps=150,
        protocol=Protocol(name="toy", epsilon=0.05, sticky=0.1),
    )
    return train(cfg, folder)


def scores(run: Run, *, keep: int, episodes: int) -> tuple[dict[str, list[float]], float]:
    """Of each task, in the episodes' order; and the seconds that it took."""
    began, found = time.perf_counter(), {name: {} for name in run.config.tasks}
    policy, rules = run.policy(keep=keep), run.config.protocol
    for episode in play(policy, run.config.tasks, rules, episodes=episodes, seed=SEED):
        found[episode.task][episode.number] = episode.score
    ordered = {name: [by[n] for n in sorted(by)] for name, by in found.items()}
    return ordered, time.perf_counter() - began


def told(mine: list[float], published: list[float]) -> dict[str, float]:
    apart = [a - b for a, b in zip(mine, published, strict=True)]
    return {
        "mean": round(statistics.fmean(mine), 3),
        "error": round(_error(mine), 3),
        "difference": round(statistics.fmean(apart), 3),
        "its_error": round(_error(apart), 3),
    }


def _error(values: list[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values))


def compare(run: Run, episodes: int) -> dict[str, Any]:
    """From the published rule downwards."""
    keeps = range(run.config.sequences.context - 1, -1, -1)
    played = {keep: scores(run, keep=keep, episodes=episodes) for keep in keeps}
    published, _ = played[keeps[0]]
    out: dict[str, Any] = {}
    for keep, (found, seconds) in played.items():
        rows = {name: told(values, published[name]) for name, values in found.items()}
        out[f"keep {keep}"] = {**rows, "seconds": round(seconds, 1)}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--episodes", type=int, default=400)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = open_run(options.run) if options.run else trained(Path(folder))
        report("keep", run=run.name, episodes=options.episodes, **compare(run, options.episodes))


if __name__ == "__main__":
    main()
