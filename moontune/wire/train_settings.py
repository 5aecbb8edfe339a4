"""Optimiser and loss parameters of a step; fields left out take the defaults of the value."""

from dataclasses import replace

from moontune.api.trainer.v1 import training_pb2
from moontune.values.training import (
    Aggregation,
    HeadWeight,
    LossKind,
    ObjectOrder,
    OptimiserKind,
    SamplerCorrection,
    TrainSettings,
)
from moontune.wire.checks import EnumMap, each, encodes
from moontune.wire.rollout import HEADS

LOSS_KINDS = EnumMap(
    {
        LossKind.GRPO: training_pb2.LOSS_KIND_GRPO,
        LossKind.DR_GRPO: training_pb2.LOSS_KIND_DR_GRPO,
        LossKind.DAPO: training_pb2.LOSS_KIND_DAPO,
        LossKind.GSPO: training_pb2.LOSS_KIND_GSPO,
        LossKind.CISPO: training_pb2.LOSS_KIND_CISPO,
        LossKind.PPO: training_pb2.LOSS_KIND_PPO,
        LossKind.REINFORCE: training_pb2.LOSS_KIND_REINFORCE,
        LossKind.RLOO: training_pb2.LOSS_KIND_RLOO,
    }
)
CORRECTIONS = EnumMap(
    {
        SamplerCorrection.OFF: training_pb2.SAMPLER_CORRECTION_OFF,
        SamplerCorrection.TOKEN_TRUNCATE: training_pb2.SAMPLER_CORRECTION_TOKEN_TRUNCATE,
        SamplerCorrection.SEQUENCE_MASK: training_pb2.SAMPLER_CORRECTION_SEQUENCE_MASK,
    }
)
AGGREGATIONS = EnumMap(
    {
        Aggregation.TOKEN_MEAN: training_pb2.AGGREGATION_TOKEN_MEAN,
        Aggregation.SEQUENCE_MEAN: training_pb2.AGGREGATION_SEQUENCE_MEAN,
        Aggregation.CONSTANT: training_pb2.AGGREGATION_CONSTANT,
        Aggregation.SEQUENCE_SUM: training_pb2.AGGREGATION_SEQUENCE_SUM,
    }
)
OBJECT_ORDERS = EnumMap(
    {
        ObjectOrder.CANONICAL: training_pb2.OBJECT_ORDER_CANONICAL,
        ObjectOrder.RANDOM: training_pb2.OBJECT_ORDER_RANDOM,
    }
)
OPTIMISERS = EnumMap(
    {
        OptimiserKind.ADAMW: training_pb2.OPTIMISER_KIND_ADAMW,
        OptimiserKind.SGD: training_pb2.OPTIMISER_KIND_SGD,
        OptimiserKind.ADAFACTOR: training_pb2.OPTIMISER_KIND_ADAFACTOR,
    }
)
_NUMBERS = (
    "learning_rate", "clip_low", "clip_high", "kl_weight", "entropy_weight", "normalise_std", "max_grad_norm",
    "weight_decay", "beta1", "beta2", "mask_band", "max_staleness_steps", "sft_weight", "passes", "dual_clip",
    "mask_truncated", "overlong_positions", "overlong_penalty", "ground_truth_reward", "epsilon",
)  # fmt: skip
"""Fields that are the same number in the message, where they are optional, and in the value."""


@encodes("settings")
def train_settings_to_proto(settings: TrainSettings) -> training_pb2.TrainSettings:
    """The message, with every field set that is not off."""
    return training_pb2.TrainSettings(
        loss=LOSS_KINDS.encode(settings.loss),
        correction=CORRECTIONS.encode(settings.correction),
        aggregation=AGGREGATIONS.encode(settings.aggregation)
        if settings.aggregation
        else training_pb2.AGGREGATION_UNSPECIFIED,
        object_order=OBJECT_ORDERS.encode(settings.object_order),
        optimiser=OPTIMISERS.encode(settings.optimiser),
        entropy_heads=[
            training_pb2.HeadWeight(head=HEADS.encode(item.head), weight=item.weight) for item in settings.entropy_heads
        ],
        **{name: getattr(settings, name) for name in _NUMBERS},
    )


def train_settings_from_proto(
    message: training_pb2.TrainSettings, field: str = "settings", defaults: TrainSettings | None = None
) -> TrainSettings:
    """The value; an unset message is the defaults."""
    base = defaults or TrainSettings()
    given = {name: getattr(message, name) for name in _NUMBERS if message.HasField(name)}
    aggregation = base.aggregation
    if message.aggregation:
        aggregation = AGGREGATIONS.decode(message.aggregation, f"{field}.aggregation")
    settings = replace(
        base,
        loss=LOSS_KINDS.decode_or(message.loss, f"{field}.loss", base.loss),
        correction=CORRECTIONS.decode_or(message.correction, f"{field}.correction", base.correction),
        aggregation=aggregation,
        object_order=OBJECT_ORDERS.decode_or(message.object_order, f"{field}.object_order", base.object_order),
        optimiser=OPTIMISERS.decode_or(message.optimiser, f"{field}.optimiser", base.optimiser),
        entropy_heads=each(f"{field}.entropy_heads", message.entropy_heads, _head_weight) or base.entropy_heads,
        **given,
    )
    settings.validate(field)
    return settings


def _head_weight(message: training_pb2.HeadWeight, field: str) -> HeadWeight:
    return HeadWeight(HEADS.decode(message.head, f"{field}.head"), message.weight)
