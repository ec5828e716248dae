"""Every recipe: it trains, its run has a name of its own, and it changes what it says."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scaledq.core.config import from_json, to_json
from scaledq.run.config import RunConfig, Start
from scaledq.run.train import train
from scaledq.study.recipes import RECIPES
from scaledq.study.scales import PAPER, QUICK_SCALE, SCALES, SMOKE
from scaledq.study.spec import Scale

GOLDEN = Path(__file__).parents[1] / "golden" / "paper_recipes.json"
SCALED_QL = RECIPES["scaled_ql"]
NAIVE = {
    "neck.embedding": "none", "neck.unit_norm": False, "objective.alpha": 1.0,
}  # fmt: skip
FEW = {
    "tasks": ["Asterix", "Breakout", "Pong", "Seaquest", "SpaceInvaders"],
    "view.rows.kind": "first",
    "view.rows.fraction": 0.2,
}
VIT = {
    "encoder.kind": "vit", "encoder.patch": 14, "encoder.width": 768, "encoder.heads": 12,
    "encoder.depth": 12,
}  # fmt: skip


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """A config's plain values by dotted path."""
    if not isinstance(value, dict) or not value:
        return {path: value}
    parts = (flat(item, f"{path}.{name}" if path else name) for name, item in value.items())
    return {name: item for part in parts for name, item in part.items()}


def fields(cfg: RunConfig) -> dict[str, Any]:
    return flat(json.loads(to_json(cfg)))


def differences(cfg: RunConfig, base: RunConfig) -> dict[str, Any]:
    """Fields of `cfg` that `base` has with another value, or lacks."""
    mine, other = fields(cfg), fields(base)
    return {name: mine[name] for name in mine if name not in other or mine[name] != other[name]}


def impala(channels: int, stacks: int) -> dict[str, Any]:
    return {
        "encoder.kind": "impala",
        "encoder.channels": [channels] * stacks,
        "encoder.width": 1,
        "encoder.residual_blocks": 2,
    }


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains(
    name: str, smoke_store: Path, full_store: Path, tmp_path: Path
) -> None:
    cfg = RECIPES[name](SMOKE)
    store = (str(full_store if cfg.online else smoke_store),)
    cfg = replace(cfg, stores=store if cfg.logged else ())
    if cfg.start != Start():
        lender = RECIPES[cfg.start.of or "scaled_ql"](SMOKE)
        source = train(replace(lender, stores=store), tmp_path)
        cfg = replace(cfg, start=replace(cfg.start, run=str(source.folder)))
    run = train(cfg, tmp_path)
    assert run.finished
    assert [row["step"] for row in run.metrics] == [2, 4]
    assert all(row["grad_norm"] > 0 for row in run.metrics)


@pytest.mark.parametrize("scale", SCALES.values(), ids=lambda scale: scale.name)
def test_every_recipe_is_a_run_of_its_own(scale: Scale) -> None:
    folders = {recipe(scale).folder for recipe in RECIPES.values()}
    assert len(folders) == len(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_in_one_line_what_it_is_and_survives_json(name: str) -> None:
    recipe = RECIPES[name]
    assert recipe.__name__ == name
    line = (recipe.__doc__ or "").splitlines()[0]
    assert line.endswith((".", ")."))
    assert len(line) < 96
    for scale in SCALES.values():
        assert recipe(scale) == recipe(scale)
        assert from_json(RunConfig, to_json(recipe(scale))) == recipe(scale)


@pytest.mark.parametrize("scale", SCALES.values(), ids=lambda scale: scale.name)
def test_scaled_ql_is_the_scales_run_and_has_its_large_encoder(scale: Scale) -> None:
    assert SCALED_QL(scale) == scale.run
    assert scale.encoders.resnets.large == scale.run.encoder


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("scaled_ql_small", {"encoder.depth": 34}),
        ("scaled_ql_medium", {"encoder.depth": 50}),
        ("scaled_ql_huge", {"encoder.depth": 152}),
        ("table2_small", {"encoder.depth": 34, **FEW}),
        ("table2_medium", {"encoder.depth": 50, **FEW}),
        ("table2_large", FEW),
        ("table2_unnormalised_small", {"encoder.depth": 34, "neck.unit_norm": False, **FEW}),
        ("table2_unnormalised_medium", {"encoder.depth": 50, "neck.unit_norm": False, **FEW}),
        ("table2_unnormalised_large", {"neck.unit_norm": False, **FEW}),
        ("scaled_ql_unnormalised", {"neck.unit_norm": False}),
        ("scaled_ql_dr3", {"neck.unit_norm": False, "objective.dr3": 0.03}),
        ("scaled_ql_flatten", {"neck.embedding": "none"}),
        ("scaled_ql_product", {"neck.embedding": "product"}),
        ("scaled_ql_no_pessimism", {"objective.alpha": 0.0}),
        ("scaled_ql_double", {"objective.double": True}),
        (
            "scaled_ql_averaged_target",
            {"optim.target_every": 1, "optim.target_fraction": 0.005},
        ),
        ("scaled_ql_one_step", {"transitions.n_step": 1}),
        ("scaled_ql_bit", {"encoder.weight_standardised": True}),
        ("scaled_ql_impala", impala(512, 5)),
        ("cql_impala_small", {**impala(128, 5), **NAIVE}),
        ("cql_impala_medium", {**impala(256, 10), **NAIVE}),
        ("cql_impala_large", {**impala(512, 5), **NAIVE}),
        ("cql_impala_huge", {**impala(512, 10), **NAIVE}),
        ("scaled_ql_on_mae", {**VIT, "start.of": "mae", "start.frozen": True}),
        ("scaled_ql_on_cpc", {"start.of": "cpc"}),
    ],
)
def test_an_arm_of_the_paper_changes_one_thing(name: str, changes: dict[str, Any]) -> None:
    assert differences(RECIPES[name](PAPER), PAPER.run) == changes


@pytest.mark.parametrize("scale", SCALES.values(), ids=lambda scale: scale.name)
def test_the_transformer_on_cpc_reads_what_cpc_trains(scale: Scale) -> None:
    cfg, cpc = RECIPES["dt_on_cpc"](scale), RECIPES["cpc"](scale)
    changes = differences(cfg, RECIPES["dt"](scale))
    assert changes.pop("start.of") == cpc.objective.kind
    body = flat(json.loads(to_json(cpc.encoder)))
    assert changes == {f"encoder.resnet.{name}": value for name, value in body.items()}
    assert cfg.transitions.stack == cpc.transitions.stack


@pytest.mark.parametrize(
    ("name", "size"),
    [(f"{family}{size}", size) for family in ("scaled_ql_mse", "bcq")
     for size in ("", "_small", "_medium", "_huge")],
)  # fmt: skip
def test_other_objectives_are_compared_at_the_same_sizes(name: str, size: str) -> None:
    ours, theirs = RECIPES[name](PAPER), RECIPES[f"scaled_ql{size}"](PAPER)
    assert replace(ours, objective=theirs.objective) == theirs
    assert ours.objective != theirs.objective


@pytest.mark.parametrize(
    ("name", "kind"),
    [("mse", "mse"), ("mse_raw", "mse"), ("hl_gauss", "hl_gauss"), ("two_hot", "two_hot"),
     ("quantile", "quantile")],
)  # fmt: skip
def test_td_errors_are_compared_with_all_else_equal(name: str, kind: str) -> None:
    for scale in (QUICK_SCALE, PAPER):
        changed = differences(RECIPES[f"scaled_ql_{name}"](scale), scale.run)
        assert changed.pop("objective.td.kind") == kind
        assert all(field.startswith("objective.td.") for field in changed)


def frozen() -> dict[str, Any]:
    """What the golden file holds: Scaled QL in full, and how each recipe differs from it."""
    runs = {name: recipe(PAPER) for name, recipe in RECIPES.items()}
    return {
        "about": "The recipes at paper scale, with all defaults: run folders are found by them. "
        "Renew after adding a recipe or a field: .venv/bin/python tests/study/test_recipes.py",
        "scaled_ql": fields(PAPER.run),
        "recipes": {
            name: {"folder": run.folder, "differs": differences(run, PAPER.run)}
            for name, run in runs.items()
        },
    }


def test_no_default_changes_in_silence() -> None:
    """A fingerprint leaves defaults out, so the file holds them too; new fields may be added."""
    golden, now = json.loads(GOLDEN.read_text()), frozen()
    assert now["scaled_ql"] | golden["scaled_ql"] == now["scaled_ql"]
    assert golden["recipes"].keys() == now["recipes"].keys()
    for name, old in golden["recipes"].items():
        assert now["recipes"][name]["folder"] == old["folder"], name
        assert (
            now["recipes"][name]["differs"] | old["differs"] == now["recipes"][name]["differs"]
        ), name


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(frozen(), indent=1) + "\n")
