"""What can be named as a model."""

from moontune.api.inference.v1 import model_info_pb2
from moontune.values.inference import ModelInfo
from moontune.wire.checks import each, encodes, required, text
from moontune.wire.moments import timestamp_from_proto, timestamp_to_proto
from moontune.wire.policy import policy_from_proto, policy_to_proto
from moontune.wire.skill import skill_from_proto, skill_to_proto


@encodes("model")
def model_info_to_proto(info: ModelInfo) -> model_info_pb2.ModelInfo:
    """The message."""
    return model_info_pb2.ModelInfo(
        name=info.name,
        policy=policy_to_proto(info.policy),
        skills=[skill_to_proto(skill) for skill in info.skills],
        created_at=None if info.created_at is None else timestamp_to_proto(info.created_at),
    )


def model_info_from_proto(message: model_info_pb2.ModelInfo, field: str = "model") -> ModelInfo:
    """The value."""
    required(message.HasField("policy"), f"{field}.policy", "a policy version")
    created_at = None
    if message.HasField("created_at"):
        created_at = timestamp_from_proto(message.created_at, f"{field}.created_at")
    return ModelInfo(
        name=text(message.name, f"{field}.name"),
        policy=policy_from_proto(message.policy, f"{field}.policy"),
        skills=each(f"{field}.skills", message.skills, skill_from_proto),
        created_at=created_at,
    )
