"""Optimiser and loss parameters of a step; fields left out take the defaults of the value."""

from moontune.api.trainer.v1 import training_pb2
from moontune.values.training import LossKind, SamplerCorrection, TrainSettings
from moontune.wire.checks import EnumMap, encodes

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


@encodes("settings")
def train_settings_to_proto(settings: TrainSettings) -> training_pb2.TrainSettings:
    """The message, with every field set."""
    return training_pb2.TrainSettings(
        loss=LOSS_KINDS.encode(settings.loss),
        learning_rate=settings.learning_rate,
        clip_low=settings.clip_low,
        clip_high=settings.clip_high,
        kl_weight=settings.kl_weight,
        entropy_weight=settings.entropy_weight,
        normalise_std=settings.normalise_std,
        max_grad_norm=settings.max_grad_norm,
        weight_decay=settings.weight_decay,
        beta1=settings.beta1,
        beta2=settings.beta2,
        correction=CORRECTIONS.encode(settings.correction),
        mask_band=settings.mask_band,
        max_staleness_steps=settings.max_staleness_steps,
        sft_weight=settings.sft_weight,
        passes=settings.passes,
    )


def train_settings_from_proto(
    message: training_pb2.TrainSettings, field: str = "settings", defaults: TrainSettings | None = None
) -> TrainSettings:
    """The value; an unset message is the defaults."""
    base = defaults or TrainSettings()
    has = message.HasField
    settings = TrainSettings(
        loss=LOSS_KINDS.decode_or(message.loss, f"{field}.loss", base.loss),
        learning_rate=message.learning_rate if has("learning_rate") else base.learning_rate,
        clip_low=message.clip_low if has("clip_low") else base.clip_low,
        clip_high=message.clip_high if has("clip_high") else base.clip_high,
        kl_weight=message.kl_weight if has("kl_weight") else base.kl_weight,
        entropy_weight=message.entropy_weight if has("entropy_weight") else base.entropy_weight,
        normalise_std=message.normalise_std if has("normalise_std") else base.normalise_std,
        max_grad_norm=message.max_grad_norm if has("max_grad_norm") else base.max_grad_norm,
        weight_decay=message.weight_decay if has("weight_decay") else base.weight_decay,
        beta1=message.beta1 if has("beta1") else base.beta1,
        beta2=message.beta2 if has("beta2") else base.beta2,
        correction=CORRECTIONS.decode_or(message.correction, f"{field}.correction", base.correction),
        mask_band=message.mask_band if has("mask_band") else base.mask_band,
        max_staleness_steps=message.max_staleness_steps if has("max_staleness_steps") else base.max_staleness_steps,
        sft_weight=message.sft_weight if has("sft_weight") else base.sft_weight,
        passes=message.passes if has("passes") else base.passes,
    )
    settings.validate(field)
    return settings
