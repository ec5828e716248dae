"""The verb that measures this machine: bench."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from scaledq.cli.options import print_table

if TYPE_CHECKING:
    from scaledq.study.bench import Findings


@dataclass
class Bench:
    """Measure this machine: store reads, steps, play; and what the paper's run would take on it."""

    store: str = ""
    """Whose logs to read; synthetic ones by default."""
    task: str = "Pong"
    """What to play."""
    budget: float = 20.0
    """Seconds for each of the three things, about."""
    price: float = 0.0
    """Of this machine, per hour, in any currency: for the cost."""

    def __call__(self) -> None:
        from scaledq.study.bench import bench

        found = bench(self.store, task=self.task, budget=self.budget)
        rates = {
            "transitions/s from the store": f"{found.reads:,.0f}",
            "steps/s of play, small network": f"{found.plays:,.0f}",
            "steps/s of play, no network": f"{found.bare_plays:,.0f}",
        }
        print_table(f"measured on {found.hardware}", rates)
        print_table("a training step, measured", _steps(found))
        print_table("the paper's run (10 M steps of 512), predicted", self._run(found))

    def _run(self, found: "Findings") -> dict[str, str]:
        from scaledq.core.atari import with_role
        from scaledq.study.scales import PAPER

        cfg, rows = PAPER.run, {}
        for network in found.networks:
            hours = found.hours(network, cfg)
            text = f"{hours:,.0f} h, {network.memory(cfg.batch_size) / 1e9:,.1f} GB on the device"
            if self.price:
                text += f", cost {hours * self.price:,.0f}"
            rows[f"ResNet-{network.depth}"] = text
        games, episodes, cap = len(with_role("train40")), PAPER.episodes, cfg.protocol.step_cap
        longest = games * episodes * cap / found.plays / 3600
        rows["its evaluation"] = (
            f"at most {longest:,.1f} h: {games} games, {episodes} episodes, small network"
        )
        return rows


def _steps(found: "Findings") -> dict[str, str]:
    return {
        f"ResNet-{n.depth}, batch {n.batch_size}": (
            f"{n.step:.3g} s, {n.batch_size / n.step:,.1f} transitions/s, "
            f"{n.operations * n.batch_size / n.step / 1e12:.3g} TFLOP/s, "
            f"{n.parameters / 1e6:.1f} M parameters"
        )
        for n in found.networks
    }
