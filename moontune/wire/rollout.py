"""Decisions, rollouts and groups of them."""

from collections.abc import Sequence

from moontune.api.common.v1 import rollout_pb2
from moontune.errors import InvalidField
from moontune.values.rollout import Decision, FinishReason, Head, Rollout, RolloutGroup
from moontune.wire.checks import EnumMap, each, encodes, finite, required
from moontune.wire.output import output_from_proto, output_to_proto, skill_of
from moontune.wire.policy import policy_from_proto, policy_to_proto
from moontune.wire.request import request_from_proto, request_to_proto

HEADS = EnumMap(
    {
        Head.TOKEN: rollout_pb2.HEAD_TOKEN,
        Head.GO: rollout_pb2.HEAD_GO,
        Head.X: rollout_pb2.HEAD_X,
        Head.Y: rollout_pb2.HEAD_Y,
        Head.WIDTH: rollout_pb2.HEAD_WIDTH,
        Head.HEIGHT: rollout_pb2.HEAD_HEIGHT,
    }
)
FINISH_REASONS = EnumMap(
    {
        FinishReason.STOP: rollout_pb2.FINISH_REASON_STOP,
        FinishReason.LENGTH: rollout_pb2.FINISH_REASON_LENGTH,
    }
)
Rewards = Sequence[float | None]


def decision_to_proto(decision: Decision) -> rollout_pb2.Decision:
    """The message; its log-probability is rounded to float32, which is what heads compute in."""
    return rollout_pb2.Decision(
        head=HEADS.encode(decision.head),
        choice=decision.choice,
        logprob=decision.logprob,
        nucleus=decision.nucleus,
    )


def decision_from_proto(message: rollout_pb2.Decision, field: str = "decision") -> Decision:
    """The value; its ranges are checked by `Rollout.validate`."""
    return Decision(
        head=HEADS.decode(message.head, f"{field}.head"),
        choice=message.choice,
        logprob=message.logprob,
        nucleus=tuple(message.nucleus) or None,
    )


@encodes("rollout")
def rollout_to_proto(rollout: Rollout) -> rollout_pb2.Rollout:
    """The message; the output's kind carries the skill."""
    if skill_of(rollout.output) is not rollout.skill:
        raise InvalidField.of("rollout.output", type(rollout.output).__name__, f"an output of {rollout.skill}")
    return rollout_pb2.Rollout(
        output=output_to_proto(rollout.output),
        decisions=[decision_to_proto(decision) for decision in rollout.decisions],
        finish_reason=FINISH_REASONS.encode(rollout.finish_reason),
        policy=policy_to_proto(rollout.policy),
        seed=rollout.seed,
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        thinking_count=rollout.thinking_count,
    )


def rollout_from_proto(message: rollout_pb2.Rollout, field: str = "rollout") -> Rollout:
    """The value."""
    required(message.HasField("output"), f"{field}.output", "an output")
    required(message.HasField("policy"), f"{field}.policy", "the policy version that sampled it")
    output = output_from_proto(message.output, f"{field}.output")
    rollout = Rollout(
        skill=skill_of(output),
        output=output,
        decisions=each(f"{field}.decisions", message.decisions, decision_from_proto),
        finish_reason=FINISH_REASONS.decode(message.finish_reason, f"{field}.finish_reason"),
        policy=policy_from_proto(message.policy, f"{field}.policy"),
        seed=message.seed,
        temperature=message.temperature,
        top_p=message.top_p if message.HasField("top_p") else 1.0,
        thinking_count=message.thinking_count,
    )
    rollout.validate(field)
    return rollout


def scored_rollouts_to_proto(rollouts: Sequence[Rollout], rewards: Rewards) -> list[rollout_pb2.ScoredRollout]:
    """One message a rollout with its reward; both sequences have one length."""
    if len(rewards) != len(rollouts):
        raise InvalidField.of("rewards", f"{len(rewards)} rewards", f"one for each of {len(rollouts)} rollouts")
    return [
        rollout_pb2.ScoredRollout(rollout=rollout_to_proto(rollout), reward=reward)
        for rollout, reward in zip(rollouts, rewards, strict=True)
    ]


def scored_rollouts_from_proto(
    messages: Sequence[rollout_pb2.ScoredRollout], field: str = "rollouts"
) -> tuple[tuple[Rollout, ...], tuple[float | None, ...]]:
    """The rollouts and their rewards, None where there is no score."""

    def rollout(message: rollout_pb2.ScoredRollout, path: str) -> Rollout:
        required(message.HasField("rollout"), f"{path}.rollout", "a rollout")
        return rollout_from_proto(message.rollout, f"{path}.rollout")

    def reward(message: rollout_pb2.ScoredRollout, path: str) -> float | None:
        return finite(message.reward, f"{path}.reward") if message.HasField("reward") else None

    return each(field, messages, rollout), each(field, messages, reward)


@encodes("group")
def rollout_group_to_proto(group: RolloutGroup) -> rollout_pb2.RolloutGroup:
    """The message; `rewards` is empty or has one entry a rollout."""
    rewards: Rewards = group.rewards or [None] * len(group.rollouts)
    return rollout_pb2.RolloutGroup(
        request=request_to_proto(group.request),
        rollouts=scored_rollouts_to_proto(group.rollouts, rewards),
        scored=bool(group.rewards),
    )


def rollout_group_from_proto(message: rollout_pb2.RolloutGroup, field: str = "group") -> RolloutGroup:
    """The value; each rollout is of the request's skill."""
    required(message.HasField("request"), f"{field}.request", "the request")
    request = request_from_proto(message.request, f"{field}.request")
    rollouts, rewards = scored_rollouts_from_proto(message.rollouts, f"{field}.rollouts")
    same_skill(request.skill, rollouts, field)
    return RolloutGroup(request, rollouts, rewards if message.scored else ())


def same_skill(skill: str, rollouts: Sequence[Rollout], field: str) -> None:
    """Raise InvalidField for the first rollout whose skill is not the request's."""
    for index, rollout in enumerate(rollouts):
        if rollout.skill != skill:
            raise InvalidField.of(f"{field}.rollouts[{index}].output", str(rollout.skill), f"an output of {skill}")
