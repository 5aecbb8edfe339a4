"""How user code is kept in."""

from moontune.api.reward.v1 import sandbox_pb2
from moontune.values.sandbox import SandboxLayer, SandboxProfile, SandboxStatus
from moontune.wire.checks import EnumMap, encodes

SANDBOX_PROFILES = EnumMap(
    {
        SandboxProfile.POD: sandbox_pb2.SANDBOX_PROFILE_POD,
        SandboxProfile.HOST: sandbox_pb2.SANDBOX_PROFILE_HOST,
        SandboxProfile.TRUSTED: sandbox_pb2.SANDBOX_PROFILE_TRUSTED,
    }
)


@encodes("status")
def sandbox_status_to_proto(status: SandboxStatus) -> sandbox_pb2.SandboxStatus:
    """The message."""
    return sandbox_pb2.SandboxStatus(
        profile=SANDBOX_PROFILES.encode(status.profile),
        user_code_allowed=status.user_code_allowed,
        layers=[
            sandbox_pb2.SandboxLayer(name=layer.name, required=layer.required, active=layer.active, detail=layer.detail)
            for layer in status.layers
        ],
        languages=status.languages,
    )


def sandbox_status_from_proto(message: sandbox_pb2.SandboxStatus, field: str = "status") -> SandboxStatus:
    """The value."""
    return SandboxStatus(
        profile=SANDBOX_PROFILES.decode(message.profile, f"{field}.profile"),
        user_code_allowed=message.user_code_allowed,
        layers=tuple(SandboxLayer(layer.name, layer.required, layer.active, layer.detail) for layer in message.layers),
        languages=tuple(message.languages),
    )
