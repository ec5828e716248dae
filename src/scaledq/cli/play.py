"""The verbs that play and tell: evaluate, report, watch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from scaledq.cli.options import print_table

NOT_RUNS = ("study.json", "recording.json")
"""What folders hold that a report is not a page of runs about."""


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
    selection: Literal["greedy", "sampled", "notebook"] | None = None
    """greedy for most; transformers sample, or follow their released notebook's rule."""
    keep: int | None = None
    """Of a transformer: with how many of its last steps a full window begins anew. All but one by
    default, as published; fewer are faster and decide otherwise."""
    seed: int = 1_000
    on: Literal["local", "ray"] = "local"
    """This machine, or a Ray cluster (RAY_ADDRESS), each task by itself."""

    def __call__(self) -> None:
        from scaledq.core.protocol import preset
        from scaledq.run.evaluate import evaluate
        from scaledq.run.folder import open_run

        run = open_run(self.run)
        rows = evaluate(
            run,
            tasks=self.tasks,
            episodes=self.episodes,
            protocol=preset(self.protocol) if self.protocol else None,
            selection=self.selection,
            keep=self.keep,
            seed=self.seed,
            on=self.on,
        )
        by_task: dict[str, list[float]] = {}
        for row in rows:
            by_task.setdefault(row.task, []).append(row.score)
        means = {task: sum(scores) / len(scores) for task, scores in by_task.items()}
        known = run.facts.get("reference", {})
        said = {task: _said(task, mean, known.get(task, {})) for task, mean in means.items()}
        print_table(f"mean score of {self.episodes}, {rows[0].protocol}", said)


def _said(task: str, score: float, reference: dict[str, float]) -> str:
    from scaledq.run.evaluate import normalised

    shares = normalised(task, score, reference)
    parts = ", ".join(f"{name} {share:.2f}" for name, share in shares.items())
    return f"{score:,.1f}  (normalised: {parts})" if parts else f"{score:,.1f}"


@dataclass
class Report:
    """Draw one self-contained page about some runs, or studies, from what they left on disk.

    A study's folder is drawn again, where it is; --out results.md puts studies, and recordings'
    learning curves, in one document.
    """

    runs: Positional[tuple[Path, ...]]
    out: Path = Path("report.html")
    protocol: str = ""
    """Of runs that were scored under several, only this one's scores; by default the first's own.
    Studies know theirs."""

    def __call__(self) -> None:
        if any((path / name).exists() for path in self.runs for name in NOT_RUNS):
            self._studies()
            return
        from scaledq.run.folder import open_run
        from scaledq.run.report import report

        report([open_run(path) for path in self.runs], self.out, protocol=self.protocol)
        print(self.out)

    def _studies(self) -> None:
        from scaledq.core.errors import RunError
        from scaledq.study.pages import draw_study, read_asked, write_results

        if self.out.suffix == ".md":
            write_results(self.runs, self.out)
            print(self.out)
            return
        for folder in self.runs:
            if (folder / "recording.json").exists():
                raise RunError(f"{folder} is a recording: its curve is told with --out results.md")
            read_asked(folder)  # before anything is drawn
        for folder in self.runs:
            print(draw_study(folder))


@dataclass
class Watch:
    """Show a run at play: a video (.mp4), or a page to step through an episode (.html).

    Both show the distribution of returns of each action, and the value over time.
    """

    run: Positional[Path]
    task: str
    out: Path = Path("clip.mp4")
    compare: Path | None = None
    """Another run, which plays the same episode beside the first."""
    saliency: bool = False
    """Also show in the video what in the picture matters; the page can always."""
    keep: int | None = None
    """As of evaluate; of the first run, where two are compared."""
    seed: int = 1_000
    steps: int = 1_000
    """At most so many."""

    def __call__(self) -> None:
        from scaledq.core.errors import RunError
        from scaledq.run.folder import open_run
        from scaledq.run.insight import write_film, write_player

        if self.out.suffix not in (".mp4", ".html"):
            raise RunError(f"give --out X.mp4 (a video) or X.html (a page), got {self.out}")
        runs = [open_run(path) for path in (self.run, self.compare) if path]
        much = {"seed": self.seed, "max_steps": self.steps, "keep": self.keep}
        if self.out.suffix == ".html":
            write_player(runs, self.task, self.out, **much)
        else:
            write_film(runs, self.task, self.out, saliency=self.saliency, **much)
        print(self.out)
