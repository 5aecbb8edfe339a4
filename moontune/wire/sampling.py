"""Sampling settings; fields left out take the caller's defaults."""

from moontune.api.common.v1 import sampling_pb2
from moontune.values.sampling import SamplingSettings
from moontune.wire.checks import encodes


@encodes("settings")
def sampling_to_proto(settings: SamplingSettings) -> sampling_pb2.SamplingSettings:
    """The message, with every field set."""
    return sampling_pb2.SamplingSettings(
        temperature=settings.temperature,
        top_p=settings.top_p,
        max_tokens=settings.max_tokens,
        max_objects=settings.max_objects,
    )


def sampling_from_proto(
    message: sampling_pb2.SamplingSettings, defaults: SamplingSettings, field: str = "settings"
) -> SamplingSettings:
    """The value; `defaults` (of rollouts or of inference, by skill) fill what is unset."""
    settings = SamplingSettings(
        temperature=message.temperature if message.HasField("temperature") else defaults.temperature,
        top_p=message.top_p if message.HasField("top_p") else defaults.top_p,
        max_tokens=message.max_tokens if message.HasField("max_tokens") else defaults.max_tokens,
        max_objects=message.max_objects if message.HasField("max_objects") else defaults.max_objects,
    )
    settings.validate(field)
    return settings
