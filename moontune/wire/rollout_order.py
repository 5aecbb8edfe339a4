"""Orders of the rollout service."""

from moontune.api.rollout.v1 import rollout_service_pb2
from moontune.values.rollout_order import RolloutOrder
from moontune.wire.checks import encodes, required
from moontune.wire.ground_truth import ground_truth_from_proto, ground_truth_to_proto
from moontune.wire.request import request_from_proto, request_to_proto
from moontune.wire.reward import reward_spec_from_proto, reward_spec_to_proto


@encodes("order")
def rollout_order_to_proto(order: RolloutOrder) -> rollout_service_pb2.RolloutOrder:
    """The message."""
    truth, reward = order.ground_truth, order.reward
    return rollout_service_pb2.RolloutOrder(
        model=order.model,
        request=request_to_proto(order.request),
        rollout_count=order.rollout_count,
        seed=order.seed,
        ground_truth=None if truth is None else ground_truth_to_proto(truth),
        reward=None if reward is None else reward_spec_to_proto(reward),
        max_staleness_steps=order.max_staleness_steps,
    )


def rollout_order_from_proto(message: rollout_service_pb2.RolloutOrder, field: str = "order") -> RolloutOrder:
    """The value; unset sampling settings take the defaults of rollouts."""
    required(message.HasField("request"), f"{field}.request", "a request")
    truth, reward = None, None
    if message.HasField("ground_truth"):
        truth = ground_truth_from_proto(message.ground_truth, f"{field}.ground_truth")
    if message.HasField("reward"):
        reward = reward_spec_from_proto(message.reward, f"{field}.reward")
    order = RolloutOrder(
        model=message.model,
        request=request_from_proto(message.request, f"{field}.request"),
        rollout_count=message.rollout_count,
        seed=message.seed if message.HasField("seed") else None,
        ground_truth=truth,
        reward=reward,
        max_staleness_steps=message.max_staleness_steps,
    )
    order.validate(field)
    return order
