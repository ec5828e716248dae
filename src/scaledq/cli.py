"""`scaledq`: one verb per stage. This is the only module that knows about a command line.

Heavy imports wait inside the verbs, so that `scaledq --help` answers at once.
"""

import re
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import tyro
from tyro.conf import AvoidSubcommands, Positional

from scaledq.core.errors import ConfigError, ScaledQError, suggest

if TYPE_CHECKING:
    from scaledq.data.store import Store

T = TypeVar("T")


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
    """Record what a behaviour does: one log for each environment, and its action log.

    Fields of the recording follow as options: --behaviour.hold 8.
    """

    tasks: Positional[tuple[str, ...]]
    store: Path
    steps: int
    """Transitions of each task, over all its environments."""
    behaviour: str = "persistent"
    """random, persistent (each action held for a while) or pqn (an agent that learns)."""
    protocol: str = "dqn-replay"
    seed: int = 0
    slots: int = 8
    """Environments of each task; each writes a log of its own."""
    resume: bool = False
    """Go on with a recording that was interrupted."""

    def __call__(self, overrides: tuple[str, ...] = ()) -> None:
        from scaledq.core.protocol import preset
        from scaledq.run.collect import CollectConfig, behaviour, collect

        cfg = CollectConfig(
            tasks=self.tasks,
            steps=self.steps,
            behaviour=behaviour(self.behaviour),
            seed=self.seed,
            slots=self.slots,
            protocol=preset(self.protocol),
        )
        cfg = _override(cfg, overrides, prog="scaledq collect")
        manifests = collect(cfg, self.store, resume=self.resume)
        counts = [manifest.counts for manifest in manifests]
        rows, episodes = sum(c.transitions for c in counts), sum(c.episodes for c in counts)
        print(f"{self.store}: {len(counts)} logs, {rows:,} transitions, {episodes:,} episodes")


KINDS = {
    "dqn-replay": ("dqn_replay", "DQNReplay"),
    "rl-unplugged": ("rl_unplugged", "RLUnplugged"),
    "minari": ("minari", "Minari"),
    "arrays": ("arrays", "Arrays"),
}
"""kind -> module of data/sources and the config in it."""


@dataclass
class Ingest:
    """Turn somebody's logs into a store: dqn-replay, rl-unplugged, minari, arrays or action-log.

    Fields of the kind follow as options: `ingest dqn-replay DIR --store S --runs 1 2 --files 10`.
    """

    kind: Positional[str]
    source: Positional[str]
    """A folder, a file or a URL (gs://, s3://, http(s)://)."""
    store: str
    tasks: tuple[str, ...] = ()
    """All by default."""
    workers: int = 0
    """Processes; 0 for one a core."""
    on: Literal["local", "ray"] = "local"
    episodes: str = ":"
    """action-log: a slice of each log's episodes, such as `0:20`."""

    def __call__(self, overrides: tuple[str, ...] = ()) -> None:
        if self.kind == "action-log":
            _refuse(overrides, prog="scaledq ingest action-log")
            self._regenerate()
            return
        if self.kind not in KINDS:
            raise ConfigError(f"unknown kind {self.kind!r}; {suggest(self.kind, KINDS)}")
        from importlib import import_module

        from scaledq.run.ingest import ingest

        module, name = KINDS[self.kind]
        kind = getattr(import_module(f"scaledq.data.sources.{module}"), name)
        cfg = kind(source=self.source, tasks=self.tasks)
        cfg = _override(cfg, overrides, prog=f"scaledq ingest {self.kind}")
        print(f"{self.store}: {ingest(cfg, self.store, workers=self.workers or None, on=self.on)}")

    def _regenerate(self) -> None:
        from scaledq.run.regenerate import regenerate

        chosen, tasks = _slice(self.episodes), self.tasks or None
        done = regenerate(Path(self.source), Path(self.store), episodes=chosen, tasks=tasks)
        rows = sum(manifest.counts.transitions for manifest in done)
        print(f"{self.store}: {len(done)} logs, {rows:,} transitions")


@dataclass
class ExportMinari:
    """Write one log of a store as a Minari dataset, without loss."""

    store: Positional[str]
    task: str
    out: Path
    """A folder of Minari datasets, such as $MINARI_DATASETS_PATH."""
    dataset: str = ""
    """Its id, such as company/shop-v0; made from the task's name by default."""
    log: str = ""
    """Which of the task's logs, if there are several."""

    def __call__(self) -> None:
        from scaledq.data.sources.minari_export import export_minari

        print(
            export_minari(self.store, self.out, task=self.task, dataset=self.dataset, log=self.log)
        )


@dataclass
class Inspect:
    """Say what a store or a run holds."""

    path: Positional[str]
    """A store's folder or URL, or a run's folder."""
    verify: bool = False
    """Read every chunk of a store and name the damaged ones."""

    def __call__(self) -> None:
        if (Path(self.path) / "run.json").exists():
            self._run()
            return
        from rich.console import Console

        from scaledq.data.inspect import render, summary
        from scaledq.data.store import open_store

        store = open_store(self.path)
        Console().print(render(summary(store)))
        if self.verify:
            _verify(store)

    def _run(self) -> None:
        from scaledq.core.config import to_json
        from scaledq.run.folder import open_run

        run = open_run(Path(self.path))
        metrics = run.metrics
        step = metrics[-1]["step"] if metrics else 0
        state = "finished" if run.finished else f"at step {step:,} of {run.config.steps:,}"
        print(f"{run.name}: {state}\n{to_json(run.config).decode()}")


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
        cfg = _override(cfg, overrides, prog=f"scaledq train {self.recipe}")
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
        from scaledq.play.video import record
        from scaledq.run.folder import open_run

        run = open_run(self.run)
        record(
            run.policy(),
            self.task,
            run.config.protocol,
            out=self.out,
            seed=self.seed,
            max_steps=self.steps,
        )
        print(self.out)


Verb = Annotated[
    Quickstart | Collect | Ingest | ExportMinari | Inspect | Train | Evaluate | Report | Watch,
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
    verb, rest = tyro.cli(Verb, args=args, return_unknown_args=True, prog="scaledq")
    if isinstance(verb, Train | Collect | Ingest):
        verb(tuple(rest))
        return
    if rest:
        tyro.cli(Verb, args=args, prog="scaledq")  # says what is wrong with them, and exits
    verb()


def _override(cfg: T, overrides: tuple[str, ...], *, prog: str) -> T:
    """The config with the fields that were given on the command line; exits on unknown ones."""
    return tyro.cli(type(cfg), default=cfg, args=overrides, config=(AvoidSubcommands,), prog=prog)


def _refuse(overrides: tuple[str, ...], *, prog: str) -> None:
    if overrides:
        print(f"{prog}: unrecognized options {' '.join(overrides)}", file=sys.stderr)
        sys.exit(2)


def _slice(text: str) -> slice:
    found = re.fullmatch(r"(\d*):(\d*)", text)
    if not found:
        raise ConfigError(f"episodes: want a slice such as 0:20, got {text!r}")
    start, stop = (int(part) if part else None for part in found.groups())
    return slice(start, stop)


def _verify(store: "Store") -> None:
    from scaledq.core.errors import DataError
    from scaledq.core.progress import Progress
    from scaledq.data.inspect import blocks, check

    total, damaged = blocks(store), []
    with Progress(f"verify {store.path}", total) as bar:
        for count, block in enumerate(check(store), 1):
            bar.show(count)
            if block.fault:
                damaged.append(block)
                print(block)
    if damaged:
        raise DataError(f"{store.path}: {len(damaged)} of {total} blocks are damaged: {damaged[0]}")
    print(f"verified: {total} blocks are whole")


def _print_table(title: str, rows: dict[str, str]) -> None:
    width = max(len(name) for name in rows)
    print(f"{title}:")
    for name, text in rows.items():
        print(f"  {name:<{width}}  {text}")
