"""`scaledq`: one verb per stage. This is the only module that knows about a command line.

Heavy imports wait inside the verbs, so that `scaledq --help` answers at once.
"""

import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import AvoidSubcommands, Positional

from scaledq.core.errors import ConfigError, ScaledQError, suggest


@dataclass
class Quickstart:
    """Collect, train Scaled QL and BC, evaluate and report, on three games, in minutes."""

    out: Path = Path("quickstart")

    def __call__(self) -> None:
        from scaledq.study.quickstart import quickstart

        page = quickstart(self.out)
        print(f"open {page}")


@dataclass
class Collect:
    """Record what a behaviour does: one log for each environment, and its action log."""

    tasks: Positional[tuple[str, ...]]
    store: Path
    steps: int
    """Transitions of each task, over all its environments."""
    behaviour: str = "persistent"
    """random, persistent (each action held for a while) or pqn (an agent that learns)."""
    seed: int = 0
    protocol: str = "dqn-replay"
    slots: int = 8
    """Environments of each task; each writes a log of its own."""
    resume: bool = False
    """Go on with a recording that was interrupted."""

    def __call__(self) -> None:
        raise ConfigError("collect is not wired")


@dataclass
class Ingest:
    """Turn somebody's logs into a store."""

    kind: Positional[Literal["action-log"]]
    source: Positional[Path]
    store: Path
    tasks: tuple[str, ...] = ()
    """All by default."""
    episodes: str = ""
    """action-log: a slice of each log's episodes, such as `0:20`."""

    def __call__(self) -> None:
        raise ConfigError("ingest is not wired")


@dataclass
class Inspect:
    """Say what a store or a run holds."""

    path: Positional[Path]
    verify: bool = False
    """Read every chunk of a store and name the damaged ones."""

    def __call__(self) -> None:
        raise ConfigError("inspect is not wired")


@dataclass
class Train:
    """Train a named recipe. Fields of its config follow as options: --optim.lr 1e-4."""

    recipe: Positional[str] = ""
    store: tuple[str, ...] = ()
    scale: str = "quick"
    tasks: tuple[str, ...] = ()
    """Instead of the scale's own."""
    out: Path = Path("runs")
    resume: bool = False
    """Go on from the newest checkpoint."""
    dry_run: bool = False
    """Print the config and where it would go, then stop."""
    list: bool = False
    """Print the recipes and the scales, then stop."""

    def __call__(self, overrides: tuple[str, ...] = ()) -> None:
        from scaledq.core.config import to_json
        from scaledq.run.train import train
        from scaledq.study.recipes import RECIPES
        from scaledq.study.scales import SCALES

        if self.list:
            about = {
                name: (recipe.__doc__ or "").splitlines()[0] for name, recipe in RECIPES.items()
            }
            _print_table("recipe", about)
            _print_table("scale", {name: scale.about for name, scale in SCALES.items()})
            return
        for what, name, known in (("recipe", self.recipe, RECIPES), ("scale", self.scale, SCALES)):
            if name not in known:
                raise ConfigError(f"unknown {what} {name!r}; {suggest(name, known)}")
        cfg = RECIPES[self.recipe](SCALES[self.scale])
        cfg = replace(cfg, tasks=self.tasks or cfg.tasks, stores=self.store or cfg.stores)
        cfg = tyro.cli(
            type(cfg),
            default=cfg,
            args=overrides,
            config=(AvoidSubcommands,),
            prog=f"scaledq train {self.recipe}",
        )
        if self.dry_run:
            print(f"{self.out / cfg.folder}\n{to_json(cfg).decode()}")
            return
        if not cfg.stores:
            raise ConfigError("train needs data: give --store DIR (see `scaledq collect --help`)")
        print(train(cfg, self.out, resume=self.resume).folder)


@dataclass
class Evaluate:
    """Let a run play its tasks and store the scores beside it."""

    run: Positional[Path]
    tasks: tuple[str, ...] = ()
    """All by default."""
    episodes: int = 16
    """Whole episodes of each task."""
    protocol: str = ""
    """The run's own by default; a preset's name otherwise."""
    selection: Literal["greedy", "sampled"] = "greedy"
    seed: int = 1_000

    def __call__(self) -> None:
        from scaledq.core.protocol import preset
        from scaledq.run.evaluate import evaluate
        from scaledq.run.folder import open_run

        rows = evaluate(
            open_run(self.run),
            tasks=self.tasks,
            episodes=self.episodes,
            protocol=preset(self.protocol) if self.protocol else None,
            selection=self.selection,
            seed=self.seed,
        )
        by_task: dict[str, list[float]] = {}
        for row in rows:
            by_task.setdefault(row.task, []).append(row.score)
        means = {task: f"{sum(s) / len(s):,.1f}" for task, s in by_task.items()}
        _print_table(f"mean score of {self.episodes}, {rows[0].protocol}", means)


@dataclass
class Report:
    """Draw one self-contained page about some runs from what they left on disk."""

    runs: Positional[tuple[Path, ...]]
    out: Path = Path("report.html")

    def __call__(self) -> None:
        from scaledq.run.folder import open_run
        from scaledq.run.report import report

        report([open_run(path) for path in self.runs], self.out)
        print(self.out)


@dataclass
class Watch:
    """Record a video of a run at play, with the value of each action beside the picture."""

    run: Positional[Path]
    task: str
    out: Path = Path("clip.mp4")
    seed: int = 1_000
    steps: int = 1_000
    """At most so many."""

    def __call__(self) -> None:
        raise ConfigError("watch is not wired")


Verb = Annotated[
    Quickstart | Collect | Ingest | Inspect | Train | Evaluate | Report | Watch,
    tyro.conf.OmitSubcommandPrefixes,
]


def main(argv: list[str] | None = None) -> None:
    """Runs a verb. Exits with 0, 1 for our own error, 2 for wrong usage, 130 after Ctrl-C."""
    try:
        _run(sys.argv[1:] if argv is None else argv)
    except ScaledQError as error:
        print(f"scaledq: error: {error}", file=sys.stderr)
        sys.exit(getattr(error, "code", 1))
    except KeyboardInterrupt:
        print("scaledq: interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        sys.exit(128 + signal.SIGPIPE)


def _run(args: list[str]) -> None:
    if args[:1] == ["train"]:
        verb, rest = tyro.cli(Verb, args=args, return_unknown_args=True, prog="scaledq")
        verb(tuple(rest)) if isinstance(verb, Train) else verb()
        return
    tyro.cli(Verb, args=args, prog="scaledq")()


def _print_table(title: str, rows: dict[str, str]) -> None:
    width = max(len(name) for name in rows)
    print(f"{title}:")
    for name, text in rows.items():
        print(f"  {name:<{width}}  {text}")
