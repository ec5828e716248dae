"""Recording's speed on all cores beside ALE's own vector environment, and PQN's with learning.

Bars: collecting and regenerating at least 0.85 of the bare environment's speed in the same run;
PQN on two cores at least 400 steps/s, everything recorded.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from ale_py.vector_env import AtariVectorEnv

from scaledq.core import atari
from scaledq.run.collect import CollectConfig, Random, collect
from scaledq.run.pqn import PQNConfig
from scaledq.run.regenerate import regenerate
from timing import alternate, median, report, seconds

GAMES, SLOTS, STEPS, REPEATS = ("Breakout", "Pong", "Seaquest"), 8, 16_000, 3
LEARNING = 8_192


def bare(game: str) -> None:
    """Random play of one game, nothing kept."""
    known = atari.parse(game)[0]
    envs = AtariVectorEnv(
        known.rom,
        num_envs=SLOTS,
        repeat_action_probability=0.25,
        noop_max=0,
        use_fire_reset=False,
        reward_clipping=False,
    )
    actions = np.random.default_rng(0).integers(known.actions, size=(STEPS // SLOTS, SLOTS))
    envs.reset(seed=np.arange(SLOTS))
    for row in actions:
        envs.step(row)
    envs.close()


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="scaledq-") as folder:
        store, again = Path(folder) / "store", Path(folder) / "again"

        def recorded() -> None:
            shutil.rmtree(store, ignore_errors=True)
            for game in GAMES:
                cfg = CollectConfig(tasks=(game,), steps=STEPS, slots=SLOTS, behaviour=Random())
                collect(cfg, store)

        def made_again() -> None:
            shutil.rmtree(again, ignore_errors=True)
            regenerate(store, again)

        def alone() -> None:
            for game in GAMES:
                bare(game)

        times = alternate(alone, recorded, made_again, repeats=REPEATS)
        reference, collecting, regenerating = (median(t) for t in times)
        cfg = CollectConfig(tasks=GAMES[:1], steps=LEARNING, slots=16, behaviour=PQNConfig())
        learning = seconds(lambda: collect(cfg, store)) if "--no-pqn" not in sys.argv else np.nan
    total = STEPS * len(GAMES)
    report(
        "collect",
        collect_to_bare=round(reference / collecting, 3),
        regenerate_to_bare=round(reference / regenerating, 3),
        bare_steps_per_s=round(total / reference),
        pqn_steps_per_s=round(LEARNING / learning) if learning == learning else None,
    )


if __name__ == "__main__":
    main()
