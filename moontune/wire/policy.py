"""Policy versions."""

from moontune.api.common.v1 import policy_pb2
from moontune.values.model_ref import PolicyVersion
from moontune.wire.checks import at_least, encodes, text


@encodes("policy")
def policy_to_proto(policy: PolicyVersion) -> policy_pb2.PolicyVersion:
    """The message."""
    return policy_pb2.PolicyVersion(
        base=policy.base,
        base_digest=policy.base_digest,
        finetune_id=policy.finetune_id,
        step=policy.step,
        adapter_digest=policy.adapter_digest,
    )


def policy_from_proto(message: policy_pb2.PolicyVersion, field: str = "policy") -> PolicyVersion:
    """The value; the base is named and the step is 0 or more."""
    return PolicyVersion(
        base=text(message.base, f"{field}.base"),
        base_digest=message.base_digest,
        finetune_id=message.finetune_id,
        step=at_least(message.step, 0, f"{field}.step"),
        adapter_digest=message.adapter_digest,
    )
