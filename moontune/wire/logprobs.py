"""Scores of rollouts under a policy."""

from moontune.api.trainer.v1 import trainer_service_pb2
from moontune.values.logprobs import DecisionScore, LogprobResult, RolloutBatch
from moontune.wire.checks import each, encodes, finite, required
from moontune.wire.policy import policy_from_proto, policy_to_proto
from moontune.wire.request import request_from_proto, request_to_proto
from moontune.wire.rollout import rollout_from_proto, rollout_to_proto, same_skill


@encodes("batch")
def rollout_batch_to_proto(batch: RolloutBatch) -> trainer_service_pb2.RolloutBatch:
    """The message."""
    return trainer_service_pb2.RolloutBatch(
        request=request_to_proto(batch.request), rollouts=[rollout_to_proto(rollout) for rollout in batch.rollouts]
    )


def rollout_batch_from_proto(message: trainer_service_pb2.RolloutBatch, field: str = "batch") -> RolloutBatch:
    """The value; it has at least one rollout, each of the request's skill."""
    required(message.HasField("request"), f"{field}.request", "the request")
    required(bool(message.rollouts), f"{field}.rollouts", "at least one rollout")
    request = request_from_proto(message.request, f"{field}.request")
    rollouts = each(f"{field}.rollouts", message.rollouts, rollout_from_proto)
    same_skill(request.skill, rollouts, field)
    return RolloutBatch(request, rollouts)


@encodes("result")
def logprob_result_to_proto(result: LogprobResult) -> trainer_service_pb2.ComputeLogprobsResponse:
    """The response of ComputeLogprobs."""
    return trainer_service_pb2.ComputeLogprobsResponse(
        rollouts=[
            trainer_service_pb2.RolloutScore(
                decisions=[
                    trainer_service_pb2.DecisionScore(logprob=score.logprob, entropy=score.entropy) for score in rollout
                ]
            )
            for rollout in result.rollouts
        ],
        policy=policy_to_proto(result.policy),
    )


def logprob_result_from_proto(
    message: trainer_service_pb2.ComputeLogprobsResponse, field: str = "response"
) -> LogprobResult:
    """The value; every number is finite."""
    required(message.HasField("policy"), f"{field}.policy", "a policy version")

    def rollout(score: trainer_service_pb2.RolloutScore, path: str) -> tuple[DecisionScore, ...]:
        return each(f"{path}.decisions", score.decisions, _score_from_proto)

    rollouts = each(f"{field}.rollouts", message.rollouts, rollout)
    return LogprobResult(rollouts, policy_from_proto(message.policy, f"{field}.policy"))


def _score_from_proto(message: trainer_service_pb2.DecisionScore, field: str) -> DecisionScore:
    return DecisionScore(finite(message.logprob, f"{field}.logprob"), finite(message.entropy, f"{field}.entropy"))
