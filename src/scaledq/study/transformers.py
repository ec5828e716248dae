"""The recipes of sequence models: the rivals of Lee et al. (2022), in their three sizes."""

from dataclasses import replace

from scaledq.learn.sequence import DecisionTransformer, SequenceCloning
from scaledq.nets.transformer import TransformerConfig
from scaledq.run.config import RunConfig, Start
from scaledq.study.spec import Scale


def dt(scale: Scale) -> RunConfig:
    """The multi-game decision transformer: 40 M parameters at paper scale (figures 2, 5, 6, 7)."""
    return _decision_transformer(scale, scale.transformers.medium)


def dt_small(scale: Scale) -> RunConfig:
    """The multi-game decision transformer, small: 10 M (figure 6)."""
    return _decision_transformer(scale, scale.transformers.small)


def dt_large(scale: Scale) -> RunConfig:
    """The multi-game decision transformer, large: 200 M (figures 2, 4, 5 and 6)."""
    return _decision_transformer(scale, scale.transformers.large)


def dt_on_cpc(scale: Scale) -> RunConfig:
    """The decision transformer on the encoder of a `cpc` run: --start.run RUN (figure 7)."""
    run = dt(scale)
    encoder = replace(scale.transformers.medium, resnet=scale.run.encoder)
    return replace(run, encoder=encoder, start=Start(of="cpc"))


def bc_transformer(scale: Scale) -> RunConfig:
    """Cloning with the decision transformer's network and no returns (Lee et al., 2022)."""
    return _without_returns(dt(scale))


def bc_transformer_small(scale: Scale) -> RunConfig:
    """Cloning with the small transformer."""
    return _without_returns(dt_small(scale))


def bc_transformer_large(scale: Scale) -> RunConfig:
    """Cloning with the large transformer."""
    return _without_returns(dt_large(scale))


def _decision_transformer(scale: Scale, encoder: TransformerConfig) -> RunConfig:
    how = scale.transformers
    return replace(
        scale.run,
        objective=DecisionTransformer(),
        encoder=encoder,
        sequences=how.sequences,
        optim=how.optim,
        batch_size=how.batch_size,
        steps=how.steps,
    )


def _without_returns(run: RunConfig) -> RunConfig:
    """Any step may be cloned, whether its episode's end is in the log or not."""
    sequences = replace(run.sequences, returns=False)
    return replace(run, objective=SequenceCloning(), sequences=sequences)
