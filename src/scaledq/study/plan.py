"""Which training runs a study needs, and which of its arms nothing can train yet.

Pure: the same study, scale, seeds and recipes give the same plan on every machine, and no disk is
looked at. Equal runs of two arms, or of two studies, are one job.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from scaledq.core.errors import ConfigError
from scaledq.data.view import View
from scaledq.play.policy import Selection
from scaledq.run.config import Online, RunConfig, Start
from scaledq.run.finetune import STEPS, game_of
from scaledq.study.recipes import RECIPES
from scaledq.study.spec import Arm, Panel, Recipe, Scale, Study


@dataclass(frozen=True, slots=True)
class Job:
    """One training run. Its config names neither its stores nor the folder of its source."""

    config: RunConfig
    source: "Job | None" = None
    """Whose weights it starts from; it must be trained first."""

    @property
    def key(self) -> str:
        """Equal for equal runs. Without a source it is the name of the run's folder."""
        name = self.config.folder
        return f"{name} from {self.source.key}" if self.source else name


@dataclass(frozen=True, slots=True)
class Entry:
    """What stands for one seed of an arm: a job for each group of tasks, none for the logs."""

    arm: Arm
    seed: int
    jobs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a study asks for at one scale."""

    study: Study
    scale: Scale
    seeds: tuple[int, ...]
    jobs: Mapping[str, Job]
    """By key, sources before what starts from them."""
    entries: tuple[Entry, ...]
    lacking: Mapping[str, str]
    """Label -> the recipe that does not exist, of each arm that cannot be trained."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """What is played to answer the study's question."""
        found = (self.jobs[key].config.tasks for entry in self.entries for key in entry.jobs)
        return tuple(dict.fromkeys(task for tasks in found for task in tasks))

    def selections(self, key: str) -> tuple[Selection, ...]:
        """The ways in which this job's policy is played; none where it only lends its weights."""
        own: Selection = self.jobs[key].config.selection
        found: list[Selection] = [e.arm.selection or own for e in self.entries if key in e.jobs]
        return tuple(dict.fromkeys(found))

    def arms(self, key: str) -> tuple[str, ...]:
        """The labels of the arms that this job is for."""
        return tuple(dict.fromkeys(e.arm.label for e in self.entries if key in e.jobs))


def plan(
    study: Study,
    scale: Scale,
    *,
    seeds: Sequence[int],
    recipes: Mapping[str, Recipe] = RECIPES,
) -> Plan:
    """Every run that `study` needs at `scale`.

    Raises:
      ConfigError: no seed at all.
    """
    if not seeds:
        raise ConfigError("a study needs at least one seed; give --seeds 1 or more")
    jobs: dict[str, Job] = {}
    entries, lacking = [], {}
    for arm in study.arms:
        absent = [name for name in (arm.recipe, arm.start) if name and name not in recipes]
        if absent:
            lacking[arm.label] = absent[0]
            continue
        for seed in seeds if arm.recipe else seeds[:1]:
            made = _jobs(arm, study, scale, seed, recipes) if arm.recipe else []
            for job in made:
                if job.source:
                    jobs.setdefault(job.source.key, job.source)
                jobs.setdefault(job.key, job)
            entries.append(Entry(arm, seed, tuple(job.key for job in made)))
    return Plan(study, scale, tuple(seeds), jobs, tuple(entries), lacking)


def _jobs(
    arm: Arm, study: Study, scale: Scale, seed: int, recipes: Mapping[str, Recipe]
) -> list[Job]:
    source = None
    if arm.start:
        lender = recipes[arm.start](scale)
        source = Job(replace(lender, view=_view(arm.panel, lender, scale), seed=seed))
    out = []
    for local in _local(study, scale):
        cfg = recipes[arm.recipe](local)
        view = cfg.view if cfg.online else arm.view or _view(arm.panel, cfg, local)
        cfg = replace(cfg, view=view, seed=seed, online=_online(cfg, scale))
        out.append(Job(replace(cfg, start=_start(cfg, source, frozen=arm.frozen)), source))
    return out


def _online(cfg: RunConfig, scale: Scale) -> Online | None:
    """How it plays. What it mixes in are the logs that the source learnt from."""
    if cfg.online is None or cfg.online.prior is None:
        return cfg.online
    return replace(cfg.online, prior=replace(cfg.online.prior, tasks=scale.run.tasks))


def _start(cfg: RunConfig, source: Job | None, *, frozen: bool) -> Start:
    """What is taken over from the source: the encoder, unless more of it is of use."""
    if source is None:
        return Start()
    start, known = cfg.start, source.config.tasks
    head = game_of(cfg.tasks[0], known) if start.parts == "all" else ""
    parts = start.parts
    if source.config.sequential:
        parts = "body"  # The whole of a decision transformer is fine-tuned (Lee et al., 2022).
    elif cfg.prior_rows:
        parts = "all"  # Old heads go with old logs.
    return replace(start, frozen=frozen or start.frozen, parts=parts, head=head)


def _view(panel: Panel, cfg: RunConfig, scale: Scale) -> View:
    """The recipe's own rows, but where the panel is about the first part of the logs."""
    return scale.suboptimal if panel == "sub-optimal" else cfg.view


def _local(study: Study, scale: Scale) -> list[Scale]:
    """The scale itself, or one for each task where every task is a run of its own."""
    if study.tasks == "training":
        return [scale]
    tasks, run = scale.variants, scale.run
    most = scale.tuning or (STEPS if study.tasks == "held-out" else run.steps)
    if study.tasks != "variants":
        tasks = scale.held_out
    if study.tasks == "held-out":
        run = replace(run, view=scale.held_out_view)
    local = replace(
        scale,
        run=replace(run, steps=min(run.steps, most)),
        transformers=replace(scale.transformers, steps=min(scale.transformers.steps, most)),
    )
    return [
        replace(local, run=replace(local.run, tasks=(task,)), few_tasks=(task,)) for task in tasks
    ]
