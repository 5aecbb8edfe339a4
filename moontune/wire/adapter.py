"""Where adapter versions are."""

from moontune.api.common.v1 import adapter_pb2
from moontune.values.adapter import AdapterState, AdapterStatus
from moontune.wire.checks import EnumMap, encodes, required
from moontune.wire.moments import timestamp_from_proto, timestamp_to_proto
from moontune.wire.policy import policy_from_proto, policy_to_proto

ADAPTER_STATES = EnumMap(
    {
        AdapterState.ABSENT: adapter_pb2.ADAPTER_STATE_ABSENT,
        AdapterState.LOADING: adapter_pb2.ADAPTER_STATE_LOADING,
        AdapterState.HOST: adapter_pb2.ADAPTER_STATE_HOST,
        AdapterState.DEVICE: adapter_pb2.ADAPTER_STATE_DEVICE,
        AdapterState.DRAINING: adapter_pb2.ADAPTER_STATE_DRAINING,
    }
)


@encodes("status")
def adapter_status_to_proto(status: AdapterStatus) -> adapter_pb2.AdapterStatus:
    """The message."""
    used = status.last_used_at
    return adapter_pb2.AdapterStatus(
        policy=policy_to_proto(status.policy),
        state=ADAPTER_STATES.encode(status.state),
        size_bytes=status.size_bytes,
        pinned=status.pinned,
        active_requests=status.active_requests,
        last_used_at=None if used is None else timestamp_to_proto(used),
    )


def adapter_status_from_proto(message: adapter_pb2.AdapterStatus, field: str = "status") -> AdapterStatus:
    """The value."""
    required(message.HasField("policy"), f"{field}.policy", "a policy version")
    used = None
    if message.HasField("last_used_at"):
        used = timestamp_from_proto(message.last_used_at, f"{field}.last_used_at")
    return AdapterStatus(
        policy=policy_from_proto(message.policy, f"{field}.policy"),
        state=ADAPTER_STATES.decode(message.state, f"{field}.state"),
        size_bytes=message.size_bytes,
        pinned=message.pinned,
        active_requests=message.active_requests,
        last_used_at=used,
    )
