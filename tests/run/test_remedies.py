"""Published remedies for online fine-tuning: each does what it says, and stops without a trace."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from scaledq.cli import main
from scaledq.core.batch import Batch
from scaledq.core.config import from_json
from scaledq.core.errors import ConfigError, RunError, TaskError
from scaledq.core.protocol import Protocol
from scaledq.core.task import Task
from scaledq.data.loader import Transitions
from scaledq.data.ring import RingConfig
from scaledq.data.store import open_store
from scaledq.data.view import First, Uniform, View
from scaledq.data.writer import LogWriter
from scaledq.learn.objective import ScaledQL
from scaledq.learn.optim import OptimConfig
from scaledq.nets.head import NeckConfig
from scaledq.nets.mlp import MLPConfig
from scaledq.play.toy import random_log, task
from scaledq.run.config import Online, PriorData, RunConfig, Start
from scaledq.run.evaluate import evaluate
from scaledq.run.finetune import FineTuning, finetuned
from scaledq.run.folder import WEIGHTS, Run
from scaledq.run.replay import Replay, ReplayAgent
from scaledq.run.stage import Stage
from scaledq.run.train import train

CHAIN, MIRROR, MAZE = (task(kind).name for kind in ("chain", "mirror", "maze"))
TWIN = task("chain@08").name
"""The chain by another name."""
MARK = 77
"""No toy shows it: frames of logs are made of it where they are to be told from play."""
PRIOR = PriorData(share=0.25)
PLAY = Online(replay=Replay(ring=RingConfig(capacity=200), warmup=50), slots=4)
CFG = RunConfig(
    tasks=(MIRROR,),
    objective=ScaledQL(alpha=0.0),
    encoder=MLPConfig(widths=(32,)),
    neck=NeckConfig(embedding="none", width=32, feature_scale=6.0),
    optim=OptimConfig(lr=3e-3, eps=1e-5, target_every=10),
    transitions=Transitions(stack=1, n_step=2, gamma=0.9),
    batch_size=18,
    steps=60,
    protocol=Protocol(name="toy", epsilon=0.0),
    log_every=20,
    checkpoint_every=20,
    online=replace(PLAY, prior=PRIOR),
)
ROWS = {0.25: (14, 4), 0.5: (9, 9)}
"""Share -> rows of a batch that were played, and that come from logs."""


def write(store: Path, kind: str, *, marked: bool = False, rename: Task | None = None) -> str:
    rows = random_log(kind, 600, seed=0)
    frames = np.full_like(rows.frames, MARK) if marked else rows.frames
    with LogWriter(
        store,
        rename or task(kind),
        "log",
        behaviour="random",
        protocol=None,
        source={},
        versions={},
    ) as log:
        log.append(frames, rows.action, rows.reward, rows.terminated, rows.truncated)
        log.finish()
    return str(store)


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Logs of two toys, every frame of them marked."""
    store = tmp_path_factory.mktemp("marked") / "store"
    write(store, "chain", marked=True)
    return write(store, "mirror", marked=True)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that has learnt the chain from logs."""
    folder = tmp_path_factory.mktemp("source")
    stores = (write(folder / "store", "chain"),)
    cfg = replace(CFG, tasks=(CHAIN,), online=None, stores=stores, batch_size=32, steps=200)
    run = train(cfg, folder)
    assert {row.score for row in evaluate(run, episodes=2)} == {1.0}
    return run


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """Every batch that an online run learns from."""
    seen: list[Batch] = []

    class Watched(ReplayAgent):
        def batch(self, step: int) -> Batch:
            assert step == self.learner.step
            seen.append(super().batch(step))
            return seen[-1]

    monkeypatch.setattr("scaledq.run.assemble.ReplayAgent", Watched)
    return seen


@pytest.mark.parametrize(("share", "tasks"), [(0.25, ()), (0.5, (CHAIN,)), (0.5, (CHAIN, MIRROR))])
def test_every_batch_has_its_rows_of_play_and_its_rows_of_logs(
    marked: str, tmp_path: Path, batches: list[Batch], share: float, tasks: tuple[str, ...]
) -> None:
    online = replace(PLAY, prior=PriorData(share=share, tasks=tasks))
    run = train(replace(CFG, online=online, stores=(marked,)), tmp_path)
    assert len(batches) == CFG.steps
    known = [task.name for task in run.tasks]
    assert known == [MIRROR, *(t for t in tasks if t != MIRROR)] == list(run.config.known_tasks)
    own, logged = ROWS[share]
    of_logs = []
    for batch in batches:
        from_logs = (batch.obs == MARK).flatten(1).all(1)
        assert from_logs.tolist() == [False] * own + [True] * logged
        assert (batch.task[:own] == 0).all()
        of_logs += batch.task[own:].tolist()
    counts = np.bincount(of_logs, minlength=len(known)) / len(of_logs)
    assert counts == pytest.approx(
        [1 / len(tasks or known) if name in (tasks or known) else 0 for name in known], abs=0.07
    )
    assert [500 < count < 600 for count in run.facts["prior"]["transitions"]] == [True] * len(
        tasks or known
    )
    assert {row.task for row in evaluate(run, episodes=1)} == set(known)


def test_a_view_chooses_from_the_logs(marked: str, tmp_path: Path) -> None:
    cfg = replace(CFG, stores=(marked,), view=View(rows=First(fraction=0.1)), steps=20)
    assert train(cfg, tmp_path).facts["prior"]["transitions"][0] < 61


class PlugPulled(BaseException):
    """Power is gone."""


def test_a_stop_in_the_middle_of_all_remedies_changes_nothing(
    marked: str, source: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mixed batches, floors of returns, an encoder that thaws, a head that begins anew."""
    replay = replace(PLAY.replay, reset_every=25, explore=0.0)
    cfg = replace(
        CFG,
        objective=ScaledQL(alpha=0.5, calibrated=True),
        online=replace(PLAY, replay=replay, prior=PriorData(tasks=(CHAIN, MIRROR))),
        stores=(marked,),
        start=Start(run=str(source.folder), parts="body", frozen=True, thaw=15),
    )
    whole = train(cfg, tmp_path / "a")

    class Unlucky(ReplayAgent):
        def _step(self, stage: Stage) -> None:
            if self.learner.step >= 52:
                raise PlugPulled
            super()._step(stage)

    with monkeypatch.context() as bad:
        bad.setattr("scaledq.run.assemble.ReplayAgent", Unlucky)
        with pytest.raises(PlugPulled):
            train(cfg, tmp_path / "b")
    other = write(tmp_path / "other", "chain")
    write(tmp_path / "other", "mirror")
    with pytest.raises(RunError, match=r"was begun with other logs, of .*; give the same stores"):
        train(replace(cfg, stores=(other,)), tmp_path / "b", resume=True)
    again = train(cfg, tmp_path / "b", resume=True)
    ours, theirs = (load_file(run.folder / WEIGHTS) for run in (again, whole))
    assert all(ours[name].equal(theirs[name]) for name in theirs)
    digests = [
        [log.digest for log in open_store(r.folder / "store")[MIRROR]] for r in (again, whole)
    ]
    assert digests[0] == digests[1]
    times = {"seconds": 0}
    assert [row | times for row in again.metrics] == [row | times for row in whole.metrics]


def test_the_warm_up_is_the_sources_play_and_moves_no_weight(
    source: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin begins with the chain's head: every episode before the first update is perfect."""
    first: dict[str, Tensor] = {}

    class Watched(ReplayAgent):
        def batch(self, step: int) -> Batch:
            if step == 0:
                first.update({k: v.clone() for k, v in self.learner.net.state_dict().items()})
            return super().batch(step)

    monkeypatch.setattr("scaledq.run.assemble.ReplayAgent", Watched)
    asked = FineTuning(task=TWIN, frames=4 * 200, head=CHAIN)
    replay = replace(PLAY.replay, warmup=100, explore=0.0, epsilon=0.0)
    base = replace(source.config, online=replace(PLAY, replay=replay))
    cfg = finetuned(source, asked, base=base)
    assert (cfg.start.parts, cfg.start.head) == ("all", CHAIN)
    online = cfg.online
    assert online is not None
    warm = replace(online, replay=replace(online.replay, warmup=100), protocol=CFG.protocol)
    run = train(replace(cfg, online=warm, steps=20), tmp_path)
    theirs = load_file(source.folder / WEIGHTS)
    assert first.keys() == theirs.keys()
    assert all(torch.equal(first[name], theirs[name]) for name in theirs)
    assert not torch.equal(
        load_file(run.folder / WEIGHTS)["heads.q.weight"], first["heads.q.weight"]
    )
    played = 0
    for log in open_store(run.folder / "store")[TWIN]:
        ends = np.flatnonzero(log.read("terminated"))
        ends = ends[ends < 100 // PLAY.slots]
        assert (log.read("reward")[ends] == 1.0).all()
        played += len(ends)
    assert played >= 4


@pytest.mark.parametrize(("reset", "at"), [("heads", [20, 40]), ("neck", [20, 40])])
def test_a_reset_makes_anew_what_it_says_and_forgets_its_moments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reset: str, at: list[int]
) -> None:
    seen: dict[int, dict[str, Tensor]] = {}

    class Watched(ReplayAgent):
        def _renew(self, step: int, last: int) -> None:
            assert last == CFG.steps
            named = dict(self.learner.net.named_parameters())
            before = {name: value.detach().clone() for name, value in named.items()}
            super()._renew(step, last)
            changed = {n: v.detach().clone() for n, v in named.items() if not v.equal(before[n])}
            for name, value in named.items():
                assert (value in self.learner.optimizer.state) == (name not in changed)
            if changed:
                assert self.learner.target_net is not None
                targets = dict(self.learner.target_net.named_parameters())
                assert all(targets[name].equal(value) for name, value in changed.items())
                seen[step] = changed

    monkeypatch.setattr("scaledq.run.assemble.ReplayAgent", Watched)
    replay = replace(PLAY.replay, reset_every=20, reset=reset)
    cfg = replace(CFG, online=replace(PLAY, replay=replay))
    run = train(cfg, tmp_path)
    assert sorted(seen) == at, "not within 20 updates of the end"
    names = set(load_file(run.folder / WEIGHTS))
    part = "heads." if reset == "heads" else ("heads.", "trunk.")
    assert all(
        set(changed) <= {n for n in names if n.startswith(part)} for changed in seen.values()
    )
    assert {n for n in names if n.startswith(part) and n.endswith("weight")} <= set(seen[20])
    head = "heads.q.weight"
    assert not seen[20][head].equal(seen[40][head])


def test_finetune_asks_for_each_of_them(source: Run, marked: str) -> None:
    def asked(base: RunConfig | None = None, **fields: object) -> RunConfig:
        how = FineTuning(task=MIRROR, frames=2_400, **fields)  # pyright: ignore[reportArgumentType]
        return finetuned(source, how, base=base)

    mixed = asked(stores=(marked,))
    assert mixed.online is not None
    assert (mixed.online.prior, mixed.start.parts) == (PriorData(), "encoder")
    assert (mixed.tasks, mixed.logged, mixed.view) == ((MIRROR,), (MIRROR,), View())
    old = asked(stores=(marked,), replay=("all",), replay_share=0.25, fraction=0.5)
    assert old.online is not None
    assert old.online.prior == PriorData(share=0.25, tasks=(CHAIN,))
    assert (old.tasks, old.logged, old.start.parts) == ((MIRROR,), (CHAIN,), "all")
    assert old.view == View(rows=Uniform(fraction=0.5))
    thawed = replace(source.config, start=Start(frozen=True, thaw=30))
    assert asked(thawed).start == replace(thawed.start, run=str(source.folder))
    begun = replace(source.config, start=Start(parts="all"))
    with pytest.raises(ConfigError, match=r"toy:mirror is no variant .* as --head toy:chain"):
        asked(begun)
    assert asked(begun, from_scratch=True).start == Start()


def test_a_recipe_puts_off_by_shares_of_the_updates_that_are_asked_for(
    source: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["finetune", str(source.folder), "--task", MIRROR, "--online", "--frames", "24000"]
    main([*command, "--recipe", "finetune_online_annealed", "--scale", "smoke", "--dry-run"])
    cfg = from_json(RunConfig, capsys.readouterr().out.split("\n", 1)[1])
    assert cfg.steps > 1_000
    assert isinstance(cfg.objective, ScaledQL)
    assert cfg.objective.alpha_steps == cfg.steps // 2
    assert cfg.method == "online_c51"


def test_what_cannot_be_is_refused_in_one_line_and_leaves_nothing(
    source: Run, marked: str, tmp_path: Path
) -> None:
    out = tmp_path / "runs"
    with pytest.raises(ConfigError, match=r"online\.prior: a part .* give --store DIR"):
        train(CFG, out)
    with pytest.raises(ConfigError, match=r"online\.prior\.share must lie"):
        PriorData(share=1.0)
    with pytest.raises(ConfigError, match=r"online\.prior\.tasks: each task once"):
        PriorData(tasks=(CHAIN, CHAIN))
    with pytest.raises(ConfigError, match=r"0.02 of a batch of 18 is 0 rows"):
        replace(CFG, online=replace(PLAY, prior=PriorData(share=0.02)))
    with pytest.raises(ConfigError, match=r"start.keep: toy:chain is among the tasks"):
        replace(
            CFG,
            online=replace(PLAY, prior=PriorData(tasks=(CHAIN,))),
            start=Start(run="r", parts="all", keep=(CHAIN,)),
        )
    with pytest.raises(ConfigError, match=r"replay\.reset_every: need 0 or more"):
        Replay(reset_every=-1)
    resetting = replace(PLAY, replay=replace(PLAY.replay, reset_every=5))
    with pytest.raises(ConfigError, match=r"online\.replay\.reset_every: .* start\.keep"):
        replace(CFG, online=resetting, start=Start(run="r", parts="all", keep=(CHAIN,)))
    with pytest.raises(ConfigError, match=r"start\.head needs start\.parts 'all'"):
        Start(run="r", head=CHAIN)
    wrong = write(
        tmp_path / "wrong", "chain", rename=Task(name=MIRROR, actions=9, frame_shape=(8, 8))
    )
    with pytest.raises(TaskError, match=r"the logs are of .*actions=9.* should be .*actions=5"):
        train(replace(CFG, stores=(wrong,)), out)
    assert not out.exists()
    lent = replace(CFG, online=PLAY, start=Start(run=str(source.folder), parts="all", head=CHAIN))
    with pytest.raises(ConfigError, match=r"toy:mirror has 5 actions, toy:chain has 3; .* none"):
        train(lent, out)
    with pytest.raises(ConfigError, match=r"start.head: .* has no 'toy:chian'; did you mean"):
        train(replace(lent, start=replace(lent.start, head="toy:chian")), out)
