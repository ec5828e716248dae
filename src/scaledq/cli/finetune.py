"""The verb that gives a trained run a new task: finetune."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from scaledq.cli.options import override, print_table
from scaledq.core.errors import ConfigError, suggest

if TYPE_CHECKING:
    from scaledq.run.config import RunConfig
    from scaledq.run.finetune import FineTuning
    from scaledq.run.folder import Run


@dataclass
class Finetune:
    """Teach a trained run a new task. Fields of the new run's config follow as options."""

    run: Positional[Path]
    task: str
    store: tuple[str, ...] = ()
    """Logs of the new task, and of replayed ones."""
    online: bool = False
    """Learn from play instead of from logs; with --store, from both."""
    frames: float = 3e6
    """Of that play: four a step in an Atari game, as many as steps elsewhere."""
    fraction: float = 1.0
    """Of each log, drawn uniformly once."""
    frozen: bool = False
    """What is taken over does not learn on."""
    from_scratch: bool = False
    """The same run from random weights, to compare with."""
    keep: tuple[str, ...] = ()
    """Old tasks that it can go on playing; `all` for every one. Takes the whole network over."""
    replay: tuple[str, ...] = ()
    """Old tasks that it goes on learning, from logs in the stores; `all` for every one."""
    replay_share: float = 0.5
    """Of each batch; online, that of all logs together."""
    head: str = ""
    """Old task whose head the new one begins with. Takes the whole network over."""
    recipe: str = ""
    """Whose objective and neck to put on the encoder; the run's own by default."""
    scale: str = "quick"
    """The recipe's."""
    forgetting: int = 0
    """Episodes of each old task to play before and after; 0 for none."""
    seed: int = 0
    out: Path = Path("runs")
    resume: bool = False
    dry_run: bool = False
    """Print the config and where it would go, then stop."""

    def __call__(self, overrides: tuple[str, ...] = ()) -> None:
        from scaledq.core.config import to_json
        from scaledq.run.finetune import finetune, finetuned
        from scaledq.run.folder import open_run
        from scaledq.run.start import identified

        source = open_run(self.run)
        cfg = finetuned(source, self._how(), base=self._base(source))
        cfg = identified(override(cfg, overrides, prog="scaledq finetune"))
        if self.dry_run:
            print(f"{self.out / cfg.folder}\n{to_json(cfg).decode()}")
            return
        if not cfg.stores and not cfg.online:
            raise ConfigError(
                f"finetune needs logs of {self.task}, or to play it: give --store DIR, or --online"
            )
        run = finetune(cfg, self.out, resume=self.resume)
        print(run.folder)
        if self.forgetting:
            self._tell(source, run)

    def _how(self) -> "FineTuning":
        from scaledq.run.finetune import FineTuning

        return FineTuning(
            task=self.task,
            stores=self.store,
            frames=int(self.frames) if self.online else 0,
            fraction=self.fraction,
            frozen=self.frozen,
            from_scratch=self.from_scratch,
            keep=self.keep,
            replay=self.replay,
            replay_share=self.replay_share,
            head=self.head,
            seed=self.seed,
        )

    def _base(self, source: "Run") -> "RunConfig | None":
        from scaledq.run.finetune import finetuned
        from scaledq.study.recipes import RECIPES
        from scaledq.study.scales import SCALES

        if not self.recipe:
            return None
        for what, name, known in (("recipe", self.recipe, RECIPES), ("scale", self.scale, SCALES)):
            if name not in known:
                raise ConfigError(f"unknown {what} {name!r}; {suggest(name, known)}")
        make, scale = RECIPES[self.recipe], SCALES[self.scale]
        if self.online:  # What a recipe puts off, it puts off by a share of the updates.
            steps = finetuned(source, self._how(), base=make(scale)).steps
            scale = replace(scale, run=replace(scale.run, steps=steps))
        return make(scale)

    def _tell(self, source: "Run", run: "Run") -> None:
        from scaledq.run.forgetting import forgetting

        changes = forgetting(source, run, episodes=self.forgetting)
        rows = {c.task: f"{c.before:,.1f} -> {c.after:,.1f}  ({c.lost:+.0%} lost)" for c in changes}
        print_table(f"old tasks before and after, mean of {self.forgetting}", rows)
