"""The verb that answers a question with many runs: study."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from scaledq.cli.options import print_table
from scaledq.core.errors import ConfigError, suggest

if TYPE_CHECKING:
    from scaledq.study.pages import Asked


@dataclass
class Study:
    """Make a figure or table of the paper: train and play what is missing, then draw it.

    Runs are shared between studies; what is finished is not done again.
    """

    name: Positional[str] = ""
    """fig2, fig4, fig5, fig6, fig7, fig8, figB1, table1, table2, B.2, B.3, B.4, beyond, data,
    remedies."""
    scale: str = "mini"
    store: tuple[str, ...] = ()
    """Where the logs are."""
    seeds: int = 0
    """Training runs of each arm, seeds 0 to N - 1; the scale's own number by default."""
    dry_run: bool = False
    """List every run, its cost and whether it is done, then stop."""
    on: Literal["local", "ray"] = "local"
    runs: Path = Path("runs")
    """Where runs are found and put, whatever study they are for."""
    out: Path = Path("studies")
    list: bool = False
    """Print the studies and the scales, then stop."""

    def __call__(self) -> None:
        from scaledq.study.paper import STUDIES
        from scaledq.study.scales import SCALES

        if self.list:
            print_table("study", {s.name: s.question for s in STUDIES.values()})
            print_table("scale", {s.name: s.about for s in SCALES.values()})
            return
        for what, name, known in (("study", self.name, STUDIES), ("scale", self.scale, SCALES)):
            if name not in known:
                raise ConfigError(f"unknown {what} {name!r}; {suggest(name, known)}")
        if self.seeds < 0:
            raise ConfigError(f"--seeds: need at least 1, got {self.seeds}")
        from scaledq.study.pages import Asked

        asked = Asked(
            study=self.name,
            scale=self.scale,
            seeds=tuple(range(self.seeds or SCALES[self.scale].seeds)),
            runs=str(self.runs),
            stores=self.store,
        )
        if self.dry_run:
            from scaledq.study.listing import listing

            print(listing(asked.plan, asked.place))
            return
        self._make(asked)

    def _make(self, asked: "Asked") -> None:
        from scaledq.core.errors import RunError
        from scaledq.study.execute import execute
        from scaledq.study.pages import draw_study, write_asked
        from scaledq.study.results import note_behaviour

        plan, folder = asked.plan, self.out / f"{self.name}-{self.scale}"
        failures = execute(plan, asked.place, on=self.on)
        note_behaviour(plan, asked.place)
        write_asked(asked, folder)
        print(draw_study(folder))
        for label, recipe in plan.lacking.items():
            print(f"left out: {label}: there is no recipe {recipe!r} yet")
        if failures:
            key, fault = next(iter(failures.items()))
            raise RunError(f"{len(failures)} of {len(plan.jobs)} runs failed; {key}: {fault}")
