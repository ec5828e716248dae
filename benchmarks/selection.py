"""How well `scaledq select` ranks policies whose true score is known: Spearman's correlation.

    python benchmarks/selection.py

Nine arms (objectives, budgets, seeds) are trained on random play of two toys, and each is ranked by
fitted Q evaluation on the same logs, and by what the learning-health panel logged last. The truth
is the mean score of 64 played episodes of each task.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from scaledq.core.protocol import Protocol
from scaledq.data.loader import Transitions
from scaledq.data.writer import LogWriter
from scaledq.learn.bc import BehaviourCloning
from scaledq.learn.c51 import C51
from scaledq.learn.fqe import FQEConfig
from scaledq.learn.iql import IQL
from scaledq.learn.objective import ScaledQL
from scaledq.learn.optim import OptimConfig
from scaledq.nets.head import NeckConfig
from scaledq.nets.mlp import MLPConfig
from scaledq.play.toy import random_log, task
from scaledq.run.config import RunConfig
from scaledq.run.evaluate import evaluate
from scaledq.run.select import select
from scaledq.run.train import train
from timing import report

TOYS = ("chain", "maze")
HEALTH = ("q_greedy", "overestimation", "td", "agreement")


def arms(store: str) -> list[RunConfig]:
    q = ScaledQL(td=C51(atoms=21, v_min=-0.5, v_max=1.5))
    base = RunConfig(
        tasks=tuple(task(toy).name for toy in TOYS),
        stores=(store,),
        objective=q,
        encoder=MLPConfig(widths=(64,)),
        neck=NeckConfig(embedding="none", width=64, feature_scale=8.0),
        optim=OptimConfig(lr=3e-3, eps=1e-5, target_every=10),
        transitions=Transitions(stack=1, n_step=1, gamma=0.9),
        batch_size=32,
        steps=400,
        protocol=Protocol(name="toy", epsilon=0.05),
        log_every=5,
        checkpoint_every=1_000,
    )
    budgets = [
        replace(base, steps=steps, seed=seed) for seed, steps in enumerate((5, 40, 120, 400))
    ]
    others = [
        replace(base, objective=BehaviourCloning()),
        replace(base, objective=replace(q, alpha=0.0)),
        replace(base, objective=replace(q, alpha=1.0)),
        replace(base, objective=replace(q, alpha=20.0)),
        replace(base, objective=IQL(expectile=0.9)),
    ]
    return budgets + others


def spearman(a: list[float], b: list[float]) -> float | None:
    """Pearson's correlation of average ranks; None where one of them does not vary."""
    ranks = [np.array([np.mean([(y < x) + (y <= x) for y in v]) for x in v]) for v in (a, b)]
    if min(r.std() for r in ranks) == 0:
        return None
    table = np.asarray(np.corrcoef(ranks))
    return round(float(table[0, 1]), 3)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        for toy in TOYS:
            rows = random_log(toy, 4_000, seed=0)
            with LogWriter(
                store, task(toy), "log", behaviour="random", protocol=None, source={}, versions={}
            ) as log:
                log.append(rows.frames, rows.action, rows.reward, rows.terminated, rows.truncated)
                log.finish()
        runs = [train(cfg, Path(folder) / "runs") for cfg in arms(str(store))]
        truth = [float(np.mean([row.score for row in evaluate(r, episodes=64)])) for r in runs]
        fqe = FQEConfig(steps=800, batch_size=64, replicates=8, lr=3e-3, fraction=0.05)
        verdicts = {v.name: v for v in select(runs, cfg=fqe)}
        last = [run.metrics[-1] for run in runs]
    logged = {name: [float(row.get(name, np.nan)) for row in last] for name in HEALTH}
    gains = [verdicts[run.name].gain for run in runs]
    known = {name: ~np.isnan(values) for name, values in logged.items()}
    chosen = truth[int(np.argmax(gains))]
    report(
        "selection",
        arms=len(runs),
        spearman={
            "fitted Q evaluation": spearman(truth, gains),
            **{
                name: spearman(
                    np.array(truth)[known[name]].tolist(), np.array(values)[known[name]].tolist()
                )
                for name, values in logged.items()
            },
        },
        score_of_the_chosen=round(chosen, 3),
        score_of_the_best=round(max(truth), 3),
        mean_score=round(float(np.mean(truth)), 3),
    )


if __name__ == "__main__":
    main()
