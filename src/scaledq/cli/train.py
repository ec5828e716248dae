"""The verbs that train: quickstart, train."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from tyro.conf import Positional

from scaledq.cli.options import override, print_table
from scaledq.core.errors import ConfigError, suggest


@dataclass
class Quickstart:
    """Collect, train Scaled QL and BC, evaluate and report, on three games, in minutes."""

    out: Path = Path("quickstart")
    smoke: bool = False
    """A few steps of everything, in seconds: is the installation whole?"""

    def __call__(self) -> None:
        from scaledq.study.quickstart import SMOKE_TRANSITIONS, quickstart
        from scaledq.study.scales import QUICK_SCALE, QUICK_TRANSITIONS, SMOKE

        scale = SMOKE if self.smoke else QUICK_SCALE
        transitions = SMOKE_TRANSITIONS if self.smoke else QUICK_TRANSITIONS
        page = quickstart(self.out, scale, transitions=transitions)
        print(f"open {page}")


@dataclass
class Train:
    """Train a named recipe. Fields of its config follow as options: --optim.lr 1e-4."""

    recipe: Positional[str] = ""
    store: tuple[str, ...] = ()
    scale: str = "quick"
    tasks: tuple[str, ...] = ()
    """Instead of the scale's own; `all`: every task of the stores."""
    out: Path = Path("runs")
    resume: bool = False
    """Go on from the newest checkpoint, if there is one; `--resume auto` says the same."""
    timeout: float = 600.0
    """Of several processes: seconds after which one that makes no progress ends the run."""
    dry_run: bool = False
    """Print the config and where it would go, then stop."""
    list: bool = False
    """Print the recipes and the scales, then stop."""

    def __call__(self, overrides: tuple[str, ...] = ()) -> None:
        from scaledq.core.config import to_json
        from scaledq.run.start import identified
        from scaledq.run.train import train
        from scaledq.study.recipes import RECIPES
        from scaledq.study.scales import SCALES

        if self.list:
            about = {
                name: (recipe.__doc__ or "").splitlines()[0] for name, recipe in RECIPES.items()
            }
            print_table("recipe", about)
            print_table("scale", {name: scale.about for name, scale in SCALES.items()})
            return
        for what, name, known in (("recipe", self.recipe, RECIPES), ("scale", self.scale, SCALES)):
            if name not in known:
                raise ConfigError(f"unknown {what} {name!r}; {suggest(name, known)}")
        cfg = RECIPES[self.recipe](SCALES[self.scale])
        cfg = replace(cfg, tasks=self._tasks() or cfg.tasks, stores=self.store or cfg.stores)
        cfg = override(cfg, overrides, prog=f"scaledq train {self.recipe}")
        if self.dry_run:
            cfg = identified(cfg)
            print(f"{self.out / cfg.folder}\n{to_json(cfg).decode()}")
            return
        if not cfg.stores and not cfg.online:
            raise ConfigError("train needs data: give --store DIR (see `scaledq collect --help`)")
        run = train(cfg, self.out, resume=self.resume, timeout=self.timeout)
        if os.environ.get("RANK", "0") == "0":  # under torchrun one of the processes says it
            print(run.folder)

    def _tasks(self) -> tuple[str, ...]:
        if self.tasks != ("all",):
            return self.tasks
        from scaledq.data.store import open_store

        return tuple(sorted({task for path in self.store for task in open_store(path).tasks}))
