"""Runs of sequence models: what they learn on known problems; and they are runs as any other."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from scaledq.cli import main
from scaledq.core.errors import ConfigError, DataError, RunError
from scaledq.core.protocol import Protocol
from scaledq.core.task import Task
from scaledq.data.loader import Transitions
from scaledq.data.sequences import Sequences
from scaledq.data.writer import LogWriter
from scaledq.learn.c51 import C51
from scaledq.learn.cpc import CPC
from scaledq.learn.objective import ScaledQL
from scaledq.learn.optim import OptimConfig
from scaledq.learn.sequence import DecisionTransformer, SequenceCloning
from scaledq.nets.decoder import Decoder
from scaledq.nets.head import NeckConfig
from scaledq.nets.mlp import MLPConfig
from scaledq.nets.resnet import ResNetConfig
from scaledq.nets.transformer import Transformer, TransformerConfig
from scaledq.play.rollout import play
from scaledq.play.score import read_scores
from scaledq.play.sequence import SequencePolicy
from scaledq.play.toy import random_log, task
from scaledq.play.video import Act, record
from scaledq.run import assemble
from scaledq.run.checkpoint import checkpoints
from scaledq.run.config import RunConfig, Start
from scaledq.run.evaluate import SEED, evaluate
from scaledq.run.export import export
from scaledq.run.folder import SCORES, WEIGHTS, Run
from scaledq.run.policies import load_policy
from scaledq.run.report import report
from scaledq.run.start import identified, take_over
from scaledq.run.train import train

from .conftest import write_log

DT = DecisionTransformer(low=0, high=6, return_width=0.2)


def write(store: Path, name: str, rows: int, *, piece: int | None = None) -> str:
    """A log of random play, whole episodes or short pieces of them."""
    log = random_log(name, rows, seed=0, piece=piece)
    with LogWriter(
        store, task(name), "log", behaviour="random", protocol=None, source={}, versions={}
    ) as writer:
        writer.append(log.frames, log.action, log.reward, log.terminated, log.truncated)
        writer.finish()
    return str(store)


def config(store: str, *names: str, steps: int = 150) -> RunConfig:
    """A small decision transformer's run."""
    return RunConfig(
        tasks=tuple(f"toy:{name}" for name in names),
        stores=(store,),
        objective=DT,
        encoder=TransformerConfig(width=32, heads=2, layers=2, patch=8, dropout=0.0),
        sequences=Sequences(context=2, shift=0),
        optim=OptimConfig(lr=3e-3, eps=1e-8, clip=1.0, warmup=10),
        batch_size=64,
        steps=steps,
        protocol=Protocol(name="toy", epsilon=0.0),
        log_every=50,
        checkpoint_every=1_000,
    )


def cloning(cfg: RunConfig) -> RunConfig:
    sequences = replace(cfg.sequences, returns=False)
    return replace(cfg, objective=SequenceCloning(), sequences=sequences)


def q_learning(cfg: RunConfig) -> RunConfig:
    return replace(
        cfg,
        objective=ScaledQL(td=C51(atoms=21, v_min=-0.2, v_max=1.2), alpha=0.01),
        encoder=MLPConfig(widths=(128,)),
        neck=NeckConfig(embedding="none", width=64, unit_norm=False),
        transitions=Transitions(stack=1, n_step=1, gamma=0.95),
        optim=OptimConfig(lr=1e-3, eps=1e-5, target_every=20),
        batch_size=64,
        steps=1_000,
        log_every=1_000,
    )


def mean(run: Run, **options) -> float:
    return float(np.mean([row.score for row in evaluate(run, episodes=20, **options)]))


def test_hoping_for_the_best_beats_cloning_where_the_best_was_seen(tmp_path: Path) -> None:
    for name in ("chain", "mirror"):
        store = write(tmp_path / "store", name, 3_000)
    cfg = config(store, "chain", "mirror")
    hoping, clone = (train(c, tmp_path) for c in (cfg, cloning(cfg)))
    assert mean(clone) < 0.6
    assert mean(clone, selection="greedy") < 0.6
    assert mean(hoping) > 0.75
    assert mean(hoping, selection="greedy") == 1
    assert mean(hoping, selection="notebook") > 0.75
    rows = (hoping.folder / "scores.jsonl").read_text().splitlines()
    methods = {json.loads(row)["method"] for row in rows}
    assert methods == {"dt", "dt (greedy)", "dt (notebook)"}
    last = hoping.metrics[-1]
    assert {"nll", "return_nll", "reward_nll", "agreement", "return_accuracy"} <= last.keys()


def test_values_find_a_way_that_no_episode_went_and_hope_does_not(tmp_path: Path) -> None:
    cfg = config(write(tmp_path / "store", "maze", 6_000, piece=3), "maze", steps=100)
    assert mean(train(q_learning(cfg), tmp_path), selection="greedy") == 1
    for rival in (cfg, cloning(cfg)):
        run = train(rival, tmp_path)
        assert mean(run) < 0.6
        assert mean(run, selection="greedy") < 0.6


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, Run]:
    """A run of few steps on two toys, with dropout and shifted pictures."""
    folder = tmp_path_factory.mktemp("small")
    for name in ("chain", "mirror"):
        store = write(folder / "store", name, 200)
    cfg = replace(config(store, "chain", "mirror", steps=12), log_every=4, checkpoint_every=4)
    cfg = replace(cfg, sequences=Sequences(context=3, shift=1), batch_size=8)
    cfg = replace(cfg, encoder=replace(cfg.encoder, dropout=0.1))
    return cfg, train(cfg, folder / "whole")


@pytest.mark.parametrize("rule", ["adam", "lamb"])
def test_a_run_that_died_goes_on_bit_for_bit(small, tmp_path: Path, rule) -> None:
    cfg, whole = small
    if rule == "lamb":
        cfg = replace(cfg, optim=replace(cfg.optim, rule=rule))
        whole = train(cfg, tmp_path / "whole")
    died = tmp_path / "died" / cfg.folder
    shutil.copytree(whole.folder, died)
    (died / WEIGHTS).unlink()
    shutil.rmtree(checkpoints(died / "checkpoints")[-1])
    assert [place.name for place in checkpoints(died / "checkpoints")] == ["step-000000008"]
    run = train(cfg, tmp_path / "died", resume=True)
    first, second = (load_file(r.folder / WEIGHTS) for r in (whole, run))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert [m["loss"] for m in run.metrics] == [m["loss"] for m in whole.metrics]


def test_it_starts_from_a_convolutional_encoder_that_was_pre_trained(tmp_path: Path) -> None:
    cfg = config(write(tmp_path / "store", "chain", 200), "chain", steps=4)
    cfg = replace(cfg, batch_size=8, log_every=2, checkpoint_every=2)
    cfg = replace(cfg, transitions=Transitions(stack=3, n_step=1), sequences=Sequences(context=3))
    body = ResNetConfig(depth=8, width=4, stem="small")
    source = train(replace(cfg, objective=CPC(width=8), encoder=body), tmp_path)
    start = Start(run=str(source.folder), of="cpc")
    with pytest.raises(RunError, match="another encoder"):
        train(replace(cfg, start=start), tmp_path)

    cfg = replace(cfg, encoder=replace(cfg.encoder, resnet=body), start=start, seed=1)
    net, known = assemble.network(cfg, source.tasks), load_file(source.folder / WEIGHTS)
    fresh = {name: value.clone() for name, value in net.state_dict().items()}
    taken = take_over(net, identified(cfg), source.tasks, data="")
    encoder = [name for name in fresh if name.startswith("encoder.")]
    assert taken["tensors"] == len(encoder) > 0
    assert sorted(encoder) == sorted(name for name in known if name.startswith("encoder."))
    for name, value in net.state_dict().items():
        assert torch.equal(value, known[name] if name in encoder else fresh[name]), name
    assert not any(
        torch.equal(known[name], fresh[name]) for name in encoder if fresh[name].ndim == 4
    )

    frozen = train(replace(cfg, start=replace(start, frozen=True)), tmp_path / "frozen")
    weights = load_file(frozen.folder / WEIGHTS)
    assert all(torch.equal(weights[name], known[name]) for name in encoder)

    whole = train(cfg, tmp_path / "whole")
    weights = load_file(whole.folder / WEIGHTS)
    assert not any(torch.equal(weights[name], known[name]) for name in encoder)
    died = tmp_path / "died" / whole.folder.name
    shutil.copytree(whole.folder, died)
    (died / WEIGHTS).unlink()
    shutil.rmtree(checkpoints(died / "checkpoints")[-1])
    again = load_file(train(cfg, tmp_path / "died", resume=True).folder / WEIGHTS)
    assert all(torch.equal(again[name], weights[name]) for name in weights)
    assert len(evaluate(whole, episodes=2)) == 2

    tuned = replace(cfg, start=Start(run=str(whole.folder)), seed=2)
    net = assemble.network(tuned, source.tasks)
    take_over(net, identified(tuned), source.tasks, data="")
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())


def test_it_is_filmed_with_probabilities_reported_and_loaded(small, tmp_path: Path) -> None:
    cfg, run = small
    policy = load_policy(run.folder)
    assert isinstance(policy, SequencePolicy)
    obs = np.zeros((5, 1, 8, 8), np.uint8)
    assert set(policy(obs, task="toy:chain")) <= {0, 1, 2}
    assert (
        record({"it": Act(policy)}, "toy:mirror", cfg.protocol, out=tmp_path / "a.mp4", seed=0) > 0
    )
    policy.start(1)
    window = np.zeros((1, 3, 8, 8), np.uint8)
    values = policy.appraise(window, np.array([0]), np.array([0.5])).values
    assert values.sum() == pytest.approx(1)
    assert values[0, 3:].tolist() == [0.0] * (values.shape[1] - 3)
    evaluate(run, episodes=2)
    page = report([run], tmp_path / "page.html", videos=False)
    assert "Decision transformer" in page.read_text()
    with pytest.raises(RunError, match="remembers its episode"):
        export(run, tmp_path / "policy.onnx")


def test_a_shorter_memory_is_a_field_and_the_scores_say_so(small, tmp_path: Path) -> None:
    cfg, source = small
    run = replace(source, folder=Path(shutil.copytree(source.folder, tmp_path / "run")))
    methods = {}
    for keep in (None, 2, 1, 0):
        rows = evaluate(run, episodes=5, keep=keep)
        policy = SequencePolicy(
            lambda rows: Decoder(cast(Transformer, run.network), rows),
            cfg.known_tasks,
            context=3,
            kappa=DT.kappa,
            keep=keep,
        )
        expected = list(play(policy, cfg.tasks, cfg.protocol, episodes=5, seed=SEED))
        assert [(row.task, row.score, row.length) for row in rows] == [
            (episode.task, episode.score, episode.length) for episode in expected
        ]
        (methods[keep],) = {row.method for row in rows}
    assert methods == {None: "dt", 2: "dt", 1: "dt (keep 1)", 0: "dt (keep 0)"}
    greedy = evaluate(run, episodes=1, keep=0, selection="greedy")
    assert {row.method for row in greedy} == {"dt (greedy, keep 0)"}
    counts = Counter(row.method for row in read_scores(run.folder / SCORES))
    assert counts == {"dt": 10, "dt (keep 1)": 10, "dt (keep 0)": 10, "dt (greedy, keep 0)": 2}
    policy = load_policy(run.folder, keep=1)
    assert isinstance(policy, SequencePolicy)
    assert policy.keep == 1
    assert "dt (keep 1)" in report([run], tmp_path / "page.html", videos=False).read_text()


def test_the_command_line_shortens_a_memory_or_says_why_not(
    small, small_run: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, run = small
    film = ["--task", "toy:chain", "--steps", "8", "--out"]
    main(["watch", str(run.folder), "--keep", "0", *film, str(tmp_path / "film.mp4")])
    assert (tmp_path / "film.mp4").stat().st_size > 0
    values = train(replace(small_run, steps=2), tmp_path)
    sizes = "keep: a context of 3 steps keeps 0 to 2 of its last, got 3"
    memory = "keep: scaled_ql remembers no window of steps; only transformers do; leave it out"
    page = [*film, str(tmp_path / "page.html")]
    for argv, reason in (
        (["evaluate", str(run.folder), "--keep", "3"], sizes),
        (["watch", str(run.folder), "--keep", "3", *page], sizes),
        (["evaluate", str(values.folder), "--keep", "1"], memory),
        (["watch", str(values.folder), "--keep", "1", *page], memory),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main(argv)
        assert left.value.code == 1
        assert capsys.readouterr().err == f"scaledq: error: {reason}\n"
    assert not (values.folder / SCORES).exists()
    with pytest.raises(ConfigError, match=r"policy\.onnx is none"):
        load_policy(tmp_path / "policy.onnx", keep=1)


def test_more_actions_than_a_joystick_and_vectors_are_no_obstacle(tmp_path: Path) -> None:
    wide = Task(name="shop", actions=40, frame_shape=(6,))
    write_log(tmp_path / "store", wide)
    cfg = replace(config(str(tmp_path / "store"), "chain", steps=2), tasks=("shop",))
    run = train(cfg, tmp_path)
    assert run.network(*(
        torch.zeros(1, 2, 6, dtype=torch.uint8), torch.zeros(1).long(),
        torch.full((1, 2), 39), torch.ones(1, 2).long(), torch.zeros(1).long(),
    ))["policy"].shape == (1, 2, 40)  # fmt: skip


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    store = write(tmp_path / "store", "chain", 40)
    cfg = config(store, "chain")
    with pytest.raises(ConfigError, match="objective 'dt' and encoder 'mlp'"):
        replace(cfg, encoder=MLPConfig())
    with pytest.raises(ConfigError, match="objective 'scaled_ql' and encoder 'transformer'"):
        replace(cfg, objective=ScaledQL())
    with pytest.raises(ConfigError, match="returns to go"):
        replace(cfg, sequences=Sequences(returns=False))
    run = train(replace(cloning(cfg), steps=2, batch_size=4), tmp_path / "runs")
    with pytest.raises(ConfigError, match="'notebook' is about returns"):
        run.policy(selection="notebook")
    endless = Task(name="endless", actions=2, frame_shape=(6,))
    with LogWriter(
        tmp_path / "store", endless, "log", behaviour="r", protocol=None, source={}, versions={}
    ) as log:
        blank = np.zeros(20)
        columns = (blank.astype(kind) for kind in (np.int16, np.float32, bool, bool))
        log.append(np.zeros((20, 6), np.uint8), *columns)
        log.finish()
    with pytest.raises(DataError, match="endless lacks an episode that ends"):
        train(replace(cfg, tasks=("endless",)), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_store_of_unfinished_episodes_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endless = Task(name="Pong", actions=6)
    with LogWriter(
        tmp_path / "store", endless, "log", behaviour="r", protocol=None, source={}, versions={}
    ) as log:
        blank = np.zeros(20)
        columns = (blank.astype(kind) for kind in (np.int16, np.float32, bool, bool))
        log.append(np.zeros((20, 84, 84), np.uint8), *columns)
        log.finish()
    store = ["--store", str(tmp_path / "store"), "--tasks", "Pong", "--out", str(tmp_path / "runs")]
    with pytest.raises(SystemExit) as left:
        main(["train", "dt", "--scale", "smoke", *store])
    assert left.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("scaledq: error: ")
    assert "Pong lacks an episode that ends in the log" in line
    main(["train", "bc_transformer", "--scale", "smoke", *store])
