"""Every named way to train. `scaledq train --list` prints their first lines.

A recipe says what differs from Scaled QL; how large that is, its scale says. Sizes small, medium
and huge stand beside the large one, which goes without a word: ResNet-34, 50, 152 and 101 at paper
scale. Of the transformers the medium one does, as its authors' 40 M.
"""

from dataclasses import replace

from scaledq.learn.bc import BehaviourCloning
from scaledq.learn.bcq import DiscreteBCQ
from scaledq.learn.cpc import CPC
from scaledq.learn.hl_gauss import HLGauss, TwoHot
from scaledq.learn.iql import IQL
from scaledq.learn.td import MSE, QuantileRegression, TDError
from scaledq.nets.mlp import MLPConfig
from scaledq.run.config import Encoder, RunConfig, Start
from scaledq.study.online import (
    finetune_online,
    finetune_online_annealed,
    finetune_online_calibrated,
    finetune_online_mixed,
    finetune_online_on_mae,
    finetune_online_reset,
    finetune_online_thawed,
    finetune_online_warmed,
    online_c51,
    online_c51_resnet,
    online_dqn,
)
from scaledq.study.spec import Recipe, Scale
from scaledq.study.transformers import (
    bc_transformer,
    bc_transformer_large,
    bc_transformer_small,
    dt,
    dt_large,
    dt_on_cpc,
    dt_small,
)


def scaled_ql(scale: Scale) -> RunConfig:
    """Scaled Q-learning: C51 with CQL, group-norm ResNet, unit-norm features (section 4)."""
    return scale.run


def scaled_ql_small(scale: Scale) -> RunConfig:
    """Scaled QL with the smallest ResNet of figure 6."""
    return replace(scale.run, encoder=scale.encoders.resnets.small)


def scaled_ql_medium(scale: Scale) -> RunConfig:
    """Scaled QL with the second ResNet of figure 6 (table 1, C51)."""
    return replace(scale.run, encoder=scale.encoders.resnets.medium)


def scaled_ql_huge(scale: Scale) -> RunConfig:
    """Scaled QL with the largest ResNet of figure 6."""
    return replace(scale.run, encoder=scale.encoders.resnets.huge)


def scaled_ql_mse(scale: Scale) -> RunConfig:
    """Squared TD error and unitary reward scaling in place of C51 (table 1, section 5.3)."""
    return _with_td(scale.run, MSE())


def scaled_ql_mse_small(scale: Scale) -> RunConfig:
    """Squared TD error with the smallest ResNet of figure 6."""
    return _with_td(scaled_ql_small(scale), MSE())


def scaled_ql_mse_medium(scale: Scale) -> RunConfig:
    """Squared TD error with the second ResNet of figure 6 (table 1)."""
    return _with_td(scaled_ql_medium(scale), MSE())


def scaled_ql_mse_huge(scale: Scale) -> RunConfig:
    """Squared TD error with the largest ResNet of figure 6."""
    return _with_td(scaled_ql_huge(scale), MSE())


def scaled_ql_mse_raw(scale: Scale) -> RunConfig:
    """Squared TD error on rewards as they are, without unitary scaling."""
    return _with_td(scale.run, MSE(unitary=False))


def scaled_ql_hl_gauss(scale: Scale) -> RunConfig:
    """Cross-entropy to a Gaussian around the scalar target (Farebrother et al., 2024)."""
    return _with_td(scale.run, HLGauss())


def scaled_ql_two_hot(scale: Scale) -> RunConfig:
    """Cross-entropy to the two atoms around the scalar target."""
    return _with_td(scale.run, TwoHot())


def scaled_ql_quantile(scale: Scale) -> RunConfig:
    """Quantile regression in place of C51 (Dabney et al., 2018)."""
    return _with_td(scale.run, QuantileRegression())


def scaled_ql_unnormalised(scale: Scale) -> RunConfig:
    """Scaled QL without the unit norm of its features (section 4)."""
    return _unnormalised(scale.run)


def scaled_ql_dr3(scale: Scale) -> RunConfig:
    """DR3's explicit regulariser in place of the unit norm (section 4; Kumar et al., 2021)."""
    run = _unnormalised(scale.run)
    return replace(run, objective=replace(run.objective, dr3=0.03))


def table2_small(scale: Scale) -> RunConfig:
    """Table 2, with feature normalisation, smallest ResNet: few tasks, sub-optimal data."""
    return _few_tasks(scaled_ql_small(scale), scale)


def table2_medium(scale: Scale) -> RunConfig:
    """Table 2, with feature normalisation, second ResNet."""
    return _few_tasks(scaled_ql_medium(scale), scale)


def table2_large(scale: Scale) -> RunConfig:
    """Table 2, with feature normalisation, large ResNet."""
    return _few_tasks(scale.run, scale)


def table2_unnormalised_small(scale: Scale) -> RunConfig:
    """Table 2, without feature normalisation, smallest ResNet."""
    return _unnormalised(table2_small(scale))


def table2_unnormalised_medium(scale: Scale) -> RunConfig:
    """Table 2, without feature normalisation, second ResNet."""
    return _unnormalised(table2_medium(scale))


def table2_unnormalised_large(scale: Scale) -> RunConfig:
    """Table 2, without feature normalisation, large ResNet."""
    return _unnormalised(table2_large(scale))


def bcq(scale: Scale) -> RunConfig:
    """Discrete BCQ with C51 in place of conservatism (appendix B.2)."""
    return replace(scale.run, objective=DiscreteBCQ())


def bcq_small(scale: Scale) -> RunConfig:
    """Discrete BCQ with the smallest ResNet (appendix B.2)."""
    return replace(scaled_ql_small(scale), objective=DiscreteBCQ())


def bcq_medium(scale: Scale) -> RunConfig:
    """Discrete BCQ with the second ResNet (appendix B.2)."""
    return replace(scaled_ql_medium(scale), objective=DiscreteBCQ())


def bcq_huge(scale: Scale) -> RunConfig:
    """Discrete BCQ with the largest ResNet (appendix B.2)."""
    return replace(scaled_ql_huge(scale), objective=DiscreteBCQ())


def scaled_ql_flatten(scale: Scale) -> RunConfig:
    """No spatial embedding: the encoder's map is flattened as it is (appendix B.3)."""
    return replace(scale.run, neck=replace(scale.run.neck, embedding="none"))


def scaled_ql_product(scale: Scale) -> RunConfig:
    """The spatial embedding as one element-wise product, then flattened (appendix B.3)."""
    return replace(scale.run, neck=replace(scale.run.neck, embedding="product"))


def scaled_ql_no_pessimism(scale: Scale) -> RunConfig:
    """Scaled QL without conservatism: alpha = 0 (appendix B.4)."""
    return replace(scale.run, objective=replace(scale.run.objective, alpha=0.0))


def scaled_ql_double(scale: Scale) -> RunConfig:
    """The online network chooses the next action, the target network values it."""
    return replace(scale.run, objective=replace(scale.run.objective, double=True))


def scaled_ql_calibrated(scale: Scale) -> RunConfig:
    """No value is pushed below the data's return (Cal-QL; Nakamoto et al., 2023)."""
    return replace(scale.run, objective=replace(scale.run.objective, calibrated=True))


def scaled_ql_averaged_target(scale: Scale) -> RunConfig:
    """The target network is a moving average of the online one, not a copy now and then."""
    optim = replace(scale.run.optim, target_every=1, target_fraction=0.005)
    return replace(scale.run, optim=optim)


def scaled_ql_one_step(scale: Scale) -> RunConfig:
    """One-step targets in place of n-step returns."""
    return replace(scale.run, transitions=replace(scale.run.transitions, n_step=1))


def scaled_ql_bit(scale: Scale) -> RunConfig:
    """Weight-standardised convolutions and more groups in the norm, as in BiT."""
    return replace(scale.run, encoder=scale.encoders.standardised)


def scaled_ql_impala(scale: Scale) -> RunConfig:
    """Scaled QL with an IMPALA encoder and all else as it is (section 5.1)."""
    return replace(scale.run, encoder=scale.encoders.impalas.large)


def scaled_ql_mlp(scale: Scale) -> RunConfig:
    """Scaled QL for tasks whose frames are vectors: an MLP encoder."""
    neck = replace(scale.run.neck, embedding="none")
    return replace(scale.run, encoder=MLPConfig(), neck=neck)


def cql_impala_small(scale: Scale) -> RunConfig:
    """The CQL baseline of Lee et al. (2022), 5 stacks of 128 channels (figure 6)."""
    return _naive_cql(scale.run, scale.encoders.impalas.small)


def cql_impala_medium(scale: Scale) -> RunConfig:
    """The CQL baseline of Lee et al. (2022), 10 stacks of 256 channels (figure 6)."""
    return _naive_cql(scale.run, scale.encoders.impalas.medium)


def cql_impala_large(scale: Scale) -> RunConfig:
    """The CQL baseline of Lee et al. (2022), 5 stacks of 512 channels (figure 6)."""
    return _naive_cql(scale.run, scale.encoders.impalas.large)


def cql_impala_huge(scale: Scale) -> RunConfig:
    """The CQL baseline of Lee et al. (2022), 10 stacks of 512 channels (figure 6)."""
    return _naive_cql(scale.run, scale.encoders.impalas.huge)


def cql_nature(scale: Scale) -> RunConfig:
    """The same baseline with the Nature network, as in single-game work."""
    return _naive_cql(scale.run, scale.encoders.nature)


def bc(scale: Scale) -> RunConfig:
    """Behaviour cloning with the same network (section 5)."""
    return replace(scale.run, objective=BehaviourCloning())


def iql(scale: Scale) -> RunConfig:
    """Discrete implicit Q-learning with the same network (Kostrikov et al., 2021)."""
    return replace(scale.run, objective=IQL())


def mae(scale: Scale) -> RunConfig:
    """Pre-train a vision transformer by masked autoencoding; it cannot play (section 5.2)."""
    run = scale.run
    optim = replace(
        run.optim,
        lr=1.5 * run.optim.lr,  # with the paper's 2e-4 and batch 512, MAE's 1.5e-4 x batch / 256
        eps=1e-8,
        betas=(0.9, 0.95),
        weight_decay=0.05,
        warmup=run.steps // 20,
    )
    return replace(run, objective=scale.mae, encoder=scale.encoders.vit, optim=optim)


def cpc(scale: Scale) -> RunConfig:
    """Pre-train the ResNet by contrastive predictive coding; it cannot play (section 5.2)."""
    return replace(scale.run, objective=CPC(), transitions=replace(scale.run.transitions, n_step=1))


def scaled_ql_on_mae(scale: Scale) -> RunConfig:
    """Scaled QL on the frozen encoder of a `mae` run: --start.run RUN (section 5.2)."""
    return replace(scale.run, encoder=scale.encoders.vit, start=Start(of="mae", frozen=True))


def scaled_ql_on_cpc(scale: Scale) -> RunConfig:
    """Scaled QL that starts from the encoder of a `cpc` run: --start.run RUN (section 5.2)."""
    return replace(scale.run, start=Start(of="cpc"))


def _with_td(run: RunConfig, td: TDError) -> RunConfig:
    return replace(run, objective=replace(run.objective, td=td))


def _unnormalised(run: RunConfig) -> RunConfig:
    return replace(run, neck=replace(run.neck, unit_norm=False, feature_scale=1.0))


def _few_tasks(run: RunConfig, scale: Scale) -> RunConfig:
    return replace(run, tasks=scale.few_tasks, view=scale.suboptimal)


def _naive_cql(run: RunConfig, encoder: Encoder) -> RunConfig:
    """C51 and CQL of weight 1 on plain flattened features."""
    neck = replace(_unnormalised(run).neck, embedding="none")
    return replace(run, encoder=encoder, neck=neck, objective=replace(run.objective, alpha=1.0))


RECIPES: dict[str, Recipe] = {
    recipe.__name__: recipe
    for recipe in (
        scaled_ql,
        bc,
        scaled_ql_small,
        scaled_ql_medium,
        scaled_ql_huge,
        scaled_ql_mse,
        scaled_ql_mse_small,
        scaled_ql_mse_medium,
        scaled_ql_mse_huge,
        scaled_ql_mse_raw,
        scaled_ql_hl_gauss,
        scaled_ql_two_hot,
        scaled_ql_quantile,
        scaled_ql_unnormalised,
        scaled_ql_dr3,
        table2_small,
        table2_medium,
        table2_large,
        table2_unnormalised_small,
        table2_unnormalised_medium,
        table2_unnormalised_large,
        bcq,
        bcq_small,
        bcq_medium,
        bcq_huge,
        scaled_ql_flatten,
        scaled_ql_product,
        scaled_ql_no_pessimism,
        scaled_ql_double,
        scaled_ql_calibrated,
        scaled_ql_averaged_target,
        scaled_ql_one_step,
        scaled_ql_bit,
        scaled_ql_impala,
        scaled_ql_mlp,
        cql_impala_small,
        cql_impala_medium,
        cql_impala_large,
        cql_impala_huge,
        cql_nature,
        iql,
        mae,
        cpc,
        scaled_ql_on_mae,
        scaled_ql_on_cpc,
        online_c51,
        online_c51_resnet,
        online_dqn,
        finetune_online,
        finetune_online_on_mae,
        finetune_online_thawed,
        finetune_online_annealed,
        finetune_online_calibrated,
        finetune_online_mixed,
        finetune_online_warmed,
        finetune_online_reset,
        dt,
        dt_small,
        dt_large,
        dt_on_cpc,
        bc_transformer,
        bc_transformer_small,
        bc_transformer_large,
    )
}
