"""Configs that contradict themselves are refused where they are made, with the field's path."""

import json
from dataclasses import replace
from typing import Any

import pytest

from scaledq.core.config import from_json
from scaledq.core.errors import ConfigError
from scaledq.core.task import Task
from scaledq.nets.head import NeckConfig
from scaledq.nets.mlp import MLPConfig
from scaledq.nets.nature import NatureConfig
from scaledq.nets.resnet import ResNetConfig
from scaledq.run import assemble
from scaledq.run.config import RunConfig
from scaledq.study.scales import PAPER


def td(**fields: object) -> dict[str, Any]:
    return {"objective": {"kind": "scaled_ql", "td": fields}}


def objective(**fields: object) -> dict[str, Any]:
    return {"objective": fields}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (td(kind="c51", atoms=1), r"^objective\.td\.atoms must be at least 2"),
        (td(kind="c51", v_min=10.0), r"^objective\.td\.v_min must be below v_max"),
        (td(kind="c51", v_min=3.0, v_max=-3.0), r"^objective\.td\.v_min"),
        (td(kind="two_hot", atoms=1), r"^objective\.td\.atoms"),
        (td(kind="hl_gauss", bins=1), r"^objective\.td\.bins"),
        (td(kind="hl_gauss", sigma=0.0), r"^objective\.td\.sigma.*two_hot"),
        (td(kind="quantile", quantiles=0), r"^objective\.td\.quantiles"),
        (td(kind="mse", huber=0.0), r"^objective\.td\.huber"),
        (td(kind="mse", atoms=51), r"unknown field 'objective\.scaled_ql\.td\.mse\.atoms'"),
        (td(kind="c52"), r"objective\.scaled_ql\.td"),
        (objective(kind="scaled_ql", alpha=-1.0), r"^objective\.alpha"),
        (objective(kind="scaled_ql", dr3=-1.0), r"^objective\.dr3"),
        (objective(kind="iql", alpha=0.1), r"unknown field 'objective\.iql\.alpha'"),
        (objective(kind="iql", expectile=0.5), r"^objective\.expectile"),
        (objective(kind="bc", td={"kind": "c51"}), r"unknown field 'objective\.bc\.td'"),
        (objective(kind="bcq", threshold=2.0), r"^objective\.threshold"),
        ({"encoder": {"kind": "resnet", "depth": 35}}, r"encoder\.resnet\.depth"),
        ({"encoder": {"kind": "resnet", "width": 30}}, r"^encoder\.width: 30 .* 4 groups"),
        ({"encoder": {"kind": "resnet", "strides": [1, 3, 2, 1]}}, r"^encoder\.strides"),
        ({"encoder": {"kind": "impala", "depth": 18}}, r"'encoder\.impala\.depth'"),
        ({"encoder": {"kind": "impala", "channels": []}}, r"^encoder\.channels"),
        ({"encoder": {"kind": "mlp", "widths": []}}, r"^encoder\.widths"),
        ({"neck": {"width": 0}}, r"^neck\.width"),
        ({"neck": {"embeding": "sum"}}, r"'neck\.embeding'.*did you mean embedding"),
        ({"optim": {"target_fraction": 0.0}}, r"^optim\.target_fraction"),
        ({"optim": {"target_every": 0}}, r"optim needs .*target_every"),
        ({"transitions": {"n_step": 0}}, r"transitions.*n_step"),
        ({"view": {"rows": {"kind": "first", "fraction": 0.0}}}, r"view first.*fraction"),
        ({"steps": 0}, r"^steps"),
        ({"alpha": 0.1}, r"unknown field 'alpha'"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refusal:
        from_json(RunConfig, json.dumps({"tasks": ["Pong"], **fields}))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("shape", "fields", "said"),
    [
        ((6, 6), {"encoder": ResNetConfig(strides=(2, 2, 2, 2))}, r"encoder\.strides: too deep"),
        ((3, 3), {"encoder": ResNetConfig()}, r"encoder\.stem: 'paper' wants frames of at least"),
        ((20, 20), {"encoder": NatureConfig()}, r"encoder\.kind: 'nature' wants frames"),
        ((7,), {"encoder": ResNetConfig()}, r"encoder: ResNet-34 wants frames of two axes"),
        ((7,), {"encoder": MLPConfig()}, r"neck\.embedding: 'sum' wants a map"),
        ((20, 20), {"encoder": MLPConfig(), "neck": NeckConfig()}, r"neck\.embedding: 'sum'"),
    ],
)
def test_a_network_that_the_frames_do_not_fit_is_refused(
    shape: tuple[int, ...], fields: dict[str, Any], said: str
) -> None:
    cfg = replace(PAPER.run, tasks=("own",), **fields)
    with pytest.raises(ConfigError, match=said):
        assemble.network(cfg, (Task(name="own", actions=3, frame_shape=shape),))
