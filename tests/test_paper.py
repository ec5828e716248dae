"""The paper's constants, each where it says so; docs/paper.md names the code that holds them."""

import re
from pathlib import Path

import pytest

from scaledq.core import atari
from scaledq.core.protocol import SCALED_QL
from scaledq.learn.objective import ScaledQL
from scaledq.learn.sequence import DecisionTransformer
from scaledq.nets.impala import ImpalaConfig
from scaledq.nets.resnet import ResNetConfig
from scaledq.nets.transformer import TransformerConfig
from scaledq.run.config import RunConfig
from scaledq.study.online import online_c51
from scaledq.study.scales import PAPER
from scaledq.study.transformers import dt, dt_large, dt_small

ROOT = Path(__file__).parents[1]
RUN = PAPER.run


def test_equation_1_and_section_4() -> None:
    objective = RUN.objective
    assert isinstance(objective, ScaledQL)
    assert objective.alpha == 0.05
    assert objective.td.kind == "c51"
    assert (objective.td.atoms, objective.td.v_min, objective.td.v_max) == (51, -10.0, 10.0)
    assert RUN.neck.unit_norm
    assert RUN.neck.feature_scale == 1.0
    assert (RUN.neck.embedding, RUN.neck.embeddings, RUN.neck.width) == ("sum", 32, 512)
    assert RUN.encoder == ResNetConfig(depth=101)


def test_training_constants() -> None:
    assert (RUN.batch_size, RUN.steps) == (512, 10_000_000)
    assert (RUN.optim.lr, RUN.optim.eps, RUN.optim.target_every) == (2e-4, 3.125e-4, 2_000)
    transitions = RUN.transitions
    assert (transitions.stack, transitions.n_step, transitions.gamma) == (4, 3, 0.99)
    assert transitions.reward_clip == 1.0


def test_games() -> None:
    assert len(atari.with_role("train40")) == 40
    assert set(atari.with_role("heldout5")) == {
        "Alien", "MsPacman", "Pong", "SpaceInvaders", "StarGunner",
    }  # fmt: skip
    assert RUN.tasks == atari.with_role("train40")
    unagreed = {n for n in RUN.tasks if not atari.games()[n].agreed_human}
    assert unagreed == {"Carnival", "Pooyan"}
    assert sum(atari.games()[name].actions for name in RUN.tasks) == 501


def test_the_online_baseline() -> None:
    """Lee et al. (2022): n = 4, batch 128, target update 256, IMPALA of 64, 128, 128 channels."""
    run = online_c51(PAPER)
    assert isinstance(run.objective, ScaledQL)
    assert (run.objective.td.kind, run.objective.alpha) == ("c51", 0.0)
    assert run.encoder == ImpalaConfig(channels=(64, 128, 128))
    assert (run.transitions.n_step, run.batch_size, run.optim.target_every) == (4, 128, 256)
    assert (run.tasks, run.protocol) == (RUN.tasks, SCALED_QL)
    assert run.online is not None
    assert (run.online.protocol.sticky, run.online.replay.epsilon) == (0.25, 0.01)


def test_the_decision_transformer() -> None:
    """Lee et al. (2022): table of sizes, tokens of a step, context, augmentation, LAMB, warm-up."""
    sizes = {dt_small: (512, 8, 4), dt: (768, 12, 6), dt_large: (1280, 20, 10)}
    for recipe, published in sizes.items():
        run = recipe(PAPER)
        body, objective = run.encoder, run.objective
        assert isinstance(body, TransformerConfig)
        assert isinstance(objective, DecisionTransformer)
        assert (body.width, body.heads, body.layers) == published
        assert (body.patch, run.sequences.context, objective.returns) == (14, 4, 120)
        assert run.sequences.shift > 0
        assert (run.optim.rule, run.optim.warmup) == ("lamb", 4_000)


def test_evaluation() -> None:
    assert (SCALED_QL.sticky, SCALED_QL.epsilon, SCALED_QL.step_cap) == (0.0, 0.001, 27_000)
    assert SCALED_QL.noop_max == 0


def test_a_run_without_any_field_set_is_the_papers() -> None:
    assert RunConfig(tasks=RUN.tasks) == RUN


@pytest.mark.parametrize("line", (ROOT / "docs" / "paper.md").read_text().splitlines())
def test_every_place_that_the_map_names_exists(line: str) -> None:
    for path, name in re.findall(r"`((?:\w+/)+\w+\.py)(?:: (\w+))?", line):
        source = ROOT / "src" / "scaledq" / path
        if not source.exists():
            source = ROOT / path
        assert source.exists(), path
        if name:
            assert re.search(rf"(class|def) {name}\b", source.read_text()), f"{path} has no {name}"
