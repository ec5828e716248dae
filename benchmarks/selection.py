"""How well `scaledq select` ranks policies whose true score is known: Spearman's correlation.

    python benchmarks/selection.py                     toys, CartPole, Acrobot and a MiniGrid room
    python benchmarks/selection.py --cases toys
    python benchmarks/selection.py --runs RUN... [--store STORE...] [--steps N] [--fraction F]

Twelve arms a case, of unequal objectives, conservatism, budgets, data and seeds, are trained on
logs of mixed quality: random play, and an agent's while it learns. Each arm is ranked by fitted Q
evaluation on the same logs, and by what the learning-health panel logged last. The truth is the
mean score of played episodes. With --runs, the arms are finished runs that `scaledq evaluate` has
played: of several tasks, each task's mean scores are standardised over the runs and averaged.

Intervals are 95 % bootstrap intervals over arms. `regret` is how much worse the chosen arm is than
the best one, as a share of the distance from worst to best.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from scaledq.core.protocol import Protocol
from scaledq.data.loader import Transitions
from scaledq.data.ring import RingConfig
from scaledq.data.view import First, View
from scaledq.data.writer import LogWriter
from scaledq.learn.bc import BehaviourCloning
from scaledq.learn.c51 import C51
from scaledq.learn.fqe import FQEConfig
from scaledq.learn.iql import IQL
from scaledq.learn.objective import ScaledQL
from scaledq.learn.optim import OptimConfig
from scaledq.learn.td import MSE
from scaledq.nets.head import NeckConfig
from scaledq.nets.mlp import MLPConfig
from scaledq.play.score import ScoreRow, read_scores
from scaledq.play.toy import random_log, task
from scaledq.run.collect import CollectConfig, Random, collect
from scaledq.run.config import RunConfig
from scaledq.run.dqn import DQNConfig
from scaledq.run.evaluate import evaluate
from scaledq.run.folder import SCORES, Run, open_run
from scaledq.run.replay import Replay
from scaledq.run.select import select
from scaledq.run.train import train
from timing import report

TOYS = ("chain", "maze")
ROOM = "gym:MiniGrid-LavaGapS5-v0+ImgObsWrapper+FlattenObservation"
FQE = FQEConfig(steps=1_500, batch_size=128, replicates=8, fraction=0.25)
"""steps * fraction, how often the target has moved to the network, is several horizons long."""
PLAY = Protocol(name="selection", epsilon=0.01, step_cap=500)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Tasks, how their logs are made, and what an arm of full budget is."""

    base: RunConfig
    support: C51
    record: Callable[[Path], None]
    fqe: FQEConfig = FQE
    episodes: int = 32


def toys() -> Case:
    def record(store: Path) -> None:
        for toy in TOYS:
            rows = random_log(toy, 4_000, seed=0)
            about = {"behaviour": "random", "protocol": None, "source": {}, "versions": {}}
            with LogWriter(store, task(toy), "log", **about) as log:  # pyright: ignore
                log.append(rows.frames, rows.action, rows.reward, rows.terminated, rows.truncated)
                log.finish()

    base = RunConfig(
        tasks=tuple(task(toy).name for toy in TOYS),
        encoder=MLPConfig(widths=(64,)),
        neck=NeckConfig(embedding="none", width=64, feature_scale=8.0),
        optim=OptimConfig(lr=3e-3, eps=1e-5, target_every=10),
        transitions=Transitions(stack=1, n_step=1, gamma=0.9),
        batch_size=32,
        steps=400,
        protocol=Protocol(name="toy", epsilon=0.05),
        checkpoint_every=1_000,
    )
    fqe = FQEConfig(steps=800, batch_size=64, replicates=8, lr=3e-3, fraction=0.05)
    support = C51(atoms=21, v_min=-0.5, v_max=1.5)
    return Case(base=base, support=support, record=record, fqe=fqe, episodes=64)


def gym(name: str, *, gamma: float, low: float, high: float, recorded: int = 30_000) -> Case:
    """A gymnasium task; a third of its logs is random play, the rest a DQN's from first to last."""
    encoder, sight = MLPConfig(widths=(128, 128)), Transitions(stack=1, n_step=3, gamma=gamma)
    base = RunConfig(
        tasks=(name,),
        encoder=encoder,
        neck=NeckConfig(embedding="none", width=128, feature_scale=11.3),
        optim=OptimConfig(lr=1e-3, eps=1e-8, target_every=50),
        transitions=sight,
        batch_size=64,
        steps=1_200,
        protocol=PLAY,
        checkpoint_every=10_000,
    )
    agent = DQNConfig(
        encoder=encoder,
        optim=OptimConfig(lr=5e-4, eps=1e-8, target_every=200),
        transitions=sight,
        replay=Replay(ring=RingConfig(capacity=20_000), warmup=1_000, explore=0.3, epsilon=0.05),
    )

    def record(store: Path) -> None:
        for who, share in ((Random(), 1), (agent, 2)):
            steps = recorded * share // 3
            collect(CollectConfig(tasks=(name,), steps=steps, behaviour=who, slots=4), store)

    return Case(base=base, support=C51(v_min=low, v_max=high), record=record)


CASES = {
    "toys": toys,
    "CartPole": lambda: gym("gym:CartPole-v1", gamma=0.99, low=0.0, high=100.0),
    "Acrobot": lambda: gym("gym:Acrobot-v1", gamma=0.99, low=-100.0, high=0.0),
    "MiniGrid": lambda: gym(ROOM, gamma=0.95, low=0.0, high=1.0),
}


def arms(case: Case, store: Path) -> list[RunConfig]:
    """Four budgets; then each as the longest of them, but for what it names."""
    q = ScaledQL(td=case.support)
    base = replace(case.base, stores=(str(store),), objective=q)
    budgets = (base.steps // 80, base.steps // 10, base.steps // 3, base.steps)
    shorter = [
        replace(base, steps=steps, log_every=min(base.log_every, steps), seed=seed)
        for seed, steps in enumerate(budgets)
    ]
    return [
        *shorter,
        replace(base, seed=4),
        replace(base, objective=replace(q, alpha=0.0)),
        replace(base, objective=replace(q, alpha=1.0)),
        replace(base, objective=replace(q, alpha=20.0)),
        replace(base, objective=ScaledQL(td=MSE())),
        replace(base, objective=IQL(expectile=0.9)),
        replace(base, objective=BehaviourCloning()),
        replace(base, objective=BehaviourCloning(), view=View(rows=First(fraction=0.2))),
    ]


def played(case: Case, place: Path) -> dict[str, object]:
    """Records, trains, plays and ranks."""
    store = place / "store"
    case.record(store)
    runs = [train(cfg, place / "runs") for cfg in arms(case, store)]
    rows = [evaluate(run, episodes=case.episodes) for run in runs]
    return compared(runs, rows, [str(store)], case.fqe)


def compared(
    runs: Sequence[Run], rows: Sequence[Sequence[ScoreRow]], stores: Sequence[str], cfg: FQEConfig
) -> dict[str, object]:
    """What was played beside what the logs and the health panel say."""
    truth = standing(rows, runs[0].config.tasks)
    verdicts = {v.folder: v for v in select(runs, stores=stores, cfg=cfg)}
    gains = np.array([verdicts[run.folder].gain for run in runs])
    health = logged(runs)
    best, spread = truth.max(), max(np.ptp(truth), 1e-12)
    pairs = zip(truth.tolist(), gains.tolist(), strict=True)
    return {
        "arms": len(runs),
        "spearman": {"fitted Q evaluation": agreement(truth, gains)}
        | {name: agreement(truth, health[name]) for name in sorted(health)},
        "regret": round(float((best - truth[gains.argmax()]) / spread), 3),
        "regret_of_a_random_arm": round(float((best - truth.mean()) / spread), 3),
        "truth_and_gain": [[round(x, 3) for x in pair] for pair in pairs],
    }


def standing(rows: Sequence[Sequence[ScoreRow]], tasks: Sequence[str]) -> np.ndarray:
    """Each arm's mean score; of several tasks, the mean of what it is in each, standardised."""
    means = np.array(
        [[np.mean([r.score for r in own if r.task == name]) for name in tasks] for own in rows]
    )
    if np.isnan(means).any():
        raise SystemExit("every run must have been played in every task: scaledq evaluate RUN")
    if len(tasks) == 1:
        return means[:, 0]
    return ((means - means.mean(0)) / np.maximum(means.std(0), 1e-12)).mean(1)


def logged(runs: Sequence[Run]) -> dict[str, np.ndarray]:
    """Last values of what most arms' health panel logs; nan where an arm lacks one."""
    last = [run.metrics[-1] if run.metrics else {} for run in runs]
    names = ("agreement", "cql_gap", "q_data", "q_greedy", "overestimation", "end_mass", "clipped")
    names += ("feature_norm", "effective_rank", "coadaptation", "dead_units", "td")
    found = {n: np.array([float(row.get(n, np.nan)) for row in last]) for n in names}
    return {n: v for n, v in found.items() if 2 * np.isfinite(v).sum() > len(runs)}


def agreement(truth: np.ndarray, told: np.ndarray) -> list[float | None]:
    """[Spearman's correlation, and its 95 % interval]; None where there is none."""
    known = np.isfinite(told)
    truth, told = truth[known], told[known]
    rng = np.random.default_rng(0)
    drawn = (rng.integers(len(truth), size=len(truth)) for _ in range(2_000))
    draws = [x for rows in drawn if (x := spearman(truth[rows], told[rows])) is not None]
    found = spearman(truth, told)
    if found is None:
        return [None]
    return [round(float(x), 2) for x in (found, *np.percentile(draws, [2.5, 97.5]))]


def spearman(a: np.ndarray, b: np.ndarray) -> float | None:
    """Pearson's correlation of average ranks; None where one of them does not vary."""
    ranks = [((v[:, None] > v).sum(1) + (v[:, None] >= v).sum(1)) / 2 for v in (a, b)]
    if min(r.std() for r in ranks) == 0:
        return None
    return float(np.corrcoef(ranks)[0, 1])


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    asked.add_argument("--runs", nargs="+", type=Path, help="finished and evaluated runs, instead")
    asked.add_argument(
        "--store", nargs="+", default=[], help="logs to rank them on; else their own"
    )
    asked.add_argument("--steps", type=int, default=FQEConfig().steps, help="of the evaluation")
    asked.add_argument("--fraction", type=float, default=FQEConfig().fraction)
    asked.add_argument("--out", type=Path, help="keeps the logs and the runs of the cases there")
    given = asked.parse_args()
    if given.runs:
        runs = [open_run(path) for path in given.runs]
        rows = [read_scores(run.folder / SCORES) for run in runs]
        cfg = FQEConfig(steps=given.steps, fraction=given.fraction)
        report("selection", **compared(runs, rows, given.store, cfg))
        return
    with tempfile.TemporaryDirectory() as folder:
        out = given.out or Path(folder)
        report("selection", **{name: played(CASES[name](), out / name) for name in given.cases})


if __name__ == "__main__":
    main()
