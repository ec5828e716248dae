"""The verbs that make and look at data: collect, ingest, export-minari, inspect."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from scaledq.cli.options import override, refuse
from scaledq.core.errors import ConfigError, suggest

if TYPE_CHECKING:
    from scaledq.data.store import Store


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
    """random, persistent (each action held for a while), an agent that learns (pqn, dqn, c51), or
    the folder of a run."""
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
        cfg = override(cfg, overrides, prog="scaledq collect")
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
            refuse(overrides, prog="scaledq ingest action-log")
            self._regenerate()
            return
        if self.kind not in KINDS:
            raise ConfigError(f"unknown kind {self.kind!r}; {suggest(self.kind, KINDS)}")
        from importlib import import_module

        from scaledq.run.ingest import ingest

        module, name = KINDS[self.kind]
        kind = getattr(import_module(f"scaledq.data.sources.{module}"), name)
        cfg = kind(source=self.source, tasks=self.tasks)
        cfg = override(cfg, overrides, prog=f"scaledq ingest {self.kind}")
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
    html: Path | None = None
    """Write a page about a store to this file: frames, returns over time, what was done."""

    def __call__(self) -> None:
        if (Path(self.path) / "run.json").exists():
            self._run()
            return
        from rich.console import Console

        from scaledq.data.inspect import render, summary
        from scaledq.data.store import open_store

        store = open_store(self.path)
        found = summary(store)
        Console().print(render(found))
        if self.html:
            from scaledq.run.store_page import store_page

            print(store_page(store, found, self.html))
        if self.verify:
            _verify(store)

    def _run(self) -> None:
        if self.verify or self.html:
            raise ConfigError(
                f"{self.path} is a run; --verify and --html are for stores, and a page about runs "
                "comes from `scaledq report`"
            )
        from scaledq.core.config import to_json
        from scaledq.run.folder import open_run

        run = open_run(Path(self.path))
        metrics = run.metrics
        step = metrics[-1]["step"] if metrics else 0
        state = "finished" if run.finished else f"at step {step:,} of {run.config.steps:,}"
        print(f"{run.name}: {state}\n{to_json(run.config).decode()}")


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
