"""The paper's main claim in miniature, in one command: collect, train, play, report."""

import sys
import time
from dataclasses import replace
from pathlib import Path

from scaledq.run.collect import CollectConfig, collect
from scaledq.run.evaluate import evaluate
from scaledq.run.folder import Run
from scaledq.run.report import report
from scaledq.run.train import train
from scaledq.study.recipes import bc, scaled_ql
from scaledq.study.scales import QUICK_SCALE, QUICK_TRANSITIONS
from scaledq.study.spec import Recipe, Scale

SMOKE_TRANSITIONS = 400


def quickstart(
    out: Path, scale: Scale = QUICK_SCALE, *, transitions: int = QUICK_TRANSITIONS
) -> Path:
    """Does everything in `out`; what is there already is not done again. Returns the report.

    Args:
      transitions: recorded of each game.

    Raises:
      ScaledQError: any stage's own.
    """
    began = time.monotonic()
    store = out / "store"
    cfg = scale.run
    _say(f"1/4 record {transitions:,} steps of sub-optimal play of {', '.join(cfg.tasks)}")
    recording = CollectConfig(tasks=cfg.tasks, steps=transitions, protocol=cfg.protocol)
    if not _recorded(recording, store):
        collect(recording, store)
    _say("2/4 train Scaled QL, then behaviour cloning, on these logs")
    runs = {recipe.__name__: _train(recipe, scale, store, out) for recipe in (scaled_ql, bc)}
    _say(f"3/4 play {scale.episodes} episodes of each game")
    evaluate(runs["scaled_ql"], episodes=scale.episodes)
    for selection in ("greedy", "sampled"):
        evaluate(runs["bc"], episodes=scale.episodes, selection=selection)
    _say("4/4 report")
    page = report(list(runs.values()), out / "report.html")
    _say(f"done in {(time.monotonic() - began) / 60:.1f} minutes")
    return page


def _recorded(cfg: CollectConfig, store: Path) -> bool:
    logs = [store / task / name for task in cfg.tasks for name in cfg.log_names]
    return all((log / "zarr.json").exists() for log in logs)


def _train(recipe: Recipe, scale: Scale, store: Path, out: Path) -> Run:
    cfg = replace(recipe(scale), stores=(str(store),))
    return train(cfg, out / "runs", resume=True)


def _say(line: str) -> None:
    print(f"quickstart: {line}", file=sys.stderr, flush=True)
