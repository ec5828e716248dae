"""Evaluation's speed beside ALE's own vector environment, which steps the same games on all cores.

Bar: at least 0.8 of the bare environments' steps/s, with the quick scale's smallest network and
all games in one evaluation. Of each network it says: `to_bare`, how fast processes play that each
have the network beside their emulators (as `scaledq evaluate` does where it is worth it), once they
have started; `with_start`, the same of a whole evaluation of three episodes a slot; `one_network`,
one network among emulators in other processes; and a bound: the CPU time of a bare step over that
of a bare step and the network's answer together. No order of the work can beat it, but an emulation
that is cheaper than the bare one, or whose cores wait less for one another, can.
"""

import argparse
import resource
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from ale_py.vector_env import AtariVectorEnv

from scaledq.core import atari
from scaledq.core.atari import with_role
from scaledq.core.protocol import QUICK, Protocol
from scaledq.core.seeds import stream
from scaledq.nets.impala import ImpalaConfig
from scaledq.nets.resnet import ResNetConfig
from scaledq.play.envs import Fleet
from scaledq.play.policy import NetPolicy
from scaledq.play.rollout import SLOTS, play_on
from scaledq.play.turns import make_turns
from scaledq.run import assemble
from scaledq.run.apart import WORTH, Work, hastened, play_apart, processes_for
from scaledq.run.folder import Run, finish
from scaledq.study.scales import QUICK_RUN, small_impala, small_resnet
from timing import alternate, median, report

GAMES, STEPS, REPEATS = ("Breakout", "Pong", "Seaquest", "Freeway"), 1_000, 3
"""Each slot plays one episode of so many steps; beginning one costs what 15 to 20 of them do."""
ENCODERS: dict[str, ResNetConfig | ImpalaConfig] = {
    "resnet4": small_resnet(4),
    "resnet8": small_resnet(8),
    "resnet16": small_resnet(16),
    "impala3x4": small_impala(3, 4),
}
"""The neck and the C51 heads are those of the quick scale: 512 units, 51 atoms."""
RULES = replace(QUICK, name="benchmark")


class Bare:
    """Random play in ALE's own environments, a game after the other: nothing kept.

    Each call goes on where the one before stopped: seeding them loads their ROMs anew.
    """

    def __init__(self, games: tuple[str, ...], steps: int):
        self.steps, self.total = steps, len(games) * SLOTS * steps
        self.envs = {game: _bare(game) for game in games}
        self.cpu: list[float] = []
        """Seconds a step of each call, of all threads together."""

    def __call__(self) -> None:
        before = _cpu()
        for game, envs in self.envs.items():
            count = atari.task(game).actions
            for row in np.random.default_rng(0).integers(count, size=(self.steps, SLOTS)):
                envs.step(row)
        self.cpu.append((_cpu() - before) / self.total)


def _bare(game: str) -> AtariVectorEnv:
    envs = AtariVectorEnv(
        atari.parse(game)[0].rom,
        num_envs=SLOTS,
        repeat_action_probability=RULES.sticky,
        noop_max=0,
        use_fire_reset=False,
        reward_clipping=False,
    )
    envs.reset(seed=np.arange(SLOTS))
    return envs


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class OneNetwork:
    """A network that has learnt nothing, sampled so that its play varies as random play does."""

    def __init__(self, fleets: list[Fleet], run: Run, rules: Protocol):
        self.fleets, self.rules, self.total = fleets, rules, 0
        self.net, policy = run.network, run.policy(selection="sampled")
        assert isinstance(policy, NetPolicy)
        self.policy = policy

    def __call__(self) -> None:
        with hastened(self.net):
            played = play_on(self.fleets, self.policy, self.rules, episodes=SLOTS)
            self.total = sum(episode.length for episode in played)

    def cpu(self) -> float:
        """Seconds that the network alone takes for a row, in fleets like these."""
        fleet, chance = self.fleets[0], stream(0, "cpu")
        obs = chance.integers(256, size=fleet.obs.shape, dtype=np.uint8)
        uniform = chance.random(fleet.rows)
        with hastened(self.net):
            before = _cpu()
            for _ in range(50):
                self.policy.act(obs, fleet.task_index, uniform)
            return (_cpu() - before) / 50 / fleet.rows


class Apart:
    """The same in processes of their own, from their start to their end.

    Args:
      turns: episodes of each slot.
    """

    def __init__(self, run: Run, rules: Protocol, turns: int):
        how = {"selection": "sampled", "keep": None, "seed": 0}
        self.work = Work(str(run.folder), run.config.tasks, rules, turns * SLOTS, **how)
        long = replace(self.work, episodes=WORTH)
        self.processes, self.total = processes_for(long, run.network), 0

    def __call__(self) -> None:
        self.total = sum(e.length for e in play_apart(self.work, self.processes))


def untrained(folder: Path, name: str, games: tuple[str, ...]) -> Run:
    """A run's folder, as if it had been trained for no step."""
    cfg = replace(QUICK_RUN, encoder=ENCODERS[name], tasks=games)
    run = Run(folder, cfg, tuple(map(atari.task, games)), facts={})
    folder.mkdir()
    return finish(run, assemble.network(cfg, run.tasks).state_dict(), seconds=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--games", nargs="+", default=GAMES, help="40: all that the paper trains on"
    )
    parser.add_argument("--steps", type=int, default=STEPS, help="of each slot and of an episode")
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=list(ENCODERS))
    parser.add_argument("--repeats", type=int, default=REPEATS)
    given = parser.parse_args()
    games = with_role("train40") if given.games == ["40"] else tuple(given.games)
    bare, rules = Bare(games, given.steps), replace(RULES, step_cap=given.steps)
    with ExitStack() as opened:
        folder = Path(opened.enter_context(TemporaryDirectory()))
        fleets = make_turns(games, SLOTS, rules)
        for fleet in fleets:
            opened.callback(fleet.close)
        runs = {name: untrained(folder / name, name, games) for name in given.encoders}
        ones = {name: OneNetwork(fleets, run, rules) for name, run in runs.items()}
        short, long = ({n: Apart(run, rules, t) for n, run in runs.items()} for t in (1, 3))
        works = [*ones.values(), *short.values(), *long.values()]
        taken = alternate(bare, *works, repeats=given.repeats)
        bare_cpu = median(bare.cpu)
        net_cpu = {n: median([w.cpu() for _ in range(given.repeats)]) for n, w in ones.items()}
    seconds = dict(zip(works, map(median, taken[1:]), strict=True))
    reference = bare.total / median(taken[0])
    answers = {}
    for name, one in ones.items():
        few, many = short[name], long[name]
        steady = (many.total - few.total) / (seconds[many] - seconds[few])
        answers[name] = {
            "to_bare": round(steady / reference, 3),
            "with_start": round(many.total / seconds[many] / reference, 3),
            "one_network": round(one.total / seconds[one] / reference, 3),
            "bound": round(bare_cpu / (bare_cpu + net_cpu[name]), 3),
            "net_cpu_us": round(net_cpu[name] * 1e6),
            "processes": many.processes,
        }
    report(
        "evaluate",
        games=len(games),
        rows=[fleet.rows for fleet in fleets],
        bare_steps_per_s=round(reference),
        bare_cpu_us=round(bare_cpu * 1e6),
        **answers,
    )


if __name__ == "__main__":
    main()
