"""Steps: the header, the groups that follow it, and the result."""

from collections.abc import Iterator
from dataclasses import replace

from moontune.api.trainer.v1 import trainer_service_pb2, training_pb2
from moontune.errors import InvalidField
from moontune.values.finetune import MAX_CLIENT_STATE_BYTES
from moontune.values.output import QueryOutput
from moontune.values.request import SkillRequest
from moontune.values.skill import TRAINABLE_SKILLS, Skill
from moontune.values.training import MAX_GROUPS, Group, RlGroup, SftGroup, Target, TrainStep, TrainStepResult
from moontune.wire.checks import at_least, encodes, finite_map, request_id, required, text
from moontune.wire.ground_truth import ground_truth_from_proto, ground_truth_to_proto
from moontune.wire.output import query_output_from_proto, query_output_to_proto
from moontune.wire.request import request_from_proto, request_to_proto
from moontune.wire.rollout import same_skill, scored_rollouts_from_proto, scored_rollouts_to_proto
from moontune.wire.train_settings import train_settings_from_proto, train_settings_to_proto


@encodes("group")
def group_to_proto(group: Group) -> training_pb2.TrainGroup:
    """The message; the image goes as bytes where the value holds them."""
    if isinstance(group, RlGroup):
        rl = training_pb2.RlGroup(
            request=request_to_proto(group.request),
            rollouts=scored_rollouts_to_proto(group.rollouts, group.rewards),
            unverified=not group.verified,
        )
        _put_target(rl, group.target)
        return training_pb2.TrainGroup(rl=rl)
    sft = training_pb2.SftGroup(request=request_to_proto(group.request))
    _put_target(sft, group.target)
    return training_pb2.TrainGroup(sft=sft)


def _put_target(message: training_pb2.RlGroup | training_pb2.SftGroup, target: Target | None) -> None:
    if isinstance(target, QueryOutput):
        message.answer.CopyFrom(query_output_to_proto(target))
    elif target is not None:
        message.ground_truth.CopyFrom(ground_truth_to_proto(target))


def group_from_proto(message: training_pb2.TrainGroup, field: str = "group") -> Group:
    """The value."""
    match message.WhichOneof("kind"):
        case "rl":
            return _rl_from_proto(message.rl, f"{field}.rl")
        case "sft":
            return _sft_from_proto(message.sft, f"{field}.sft")
        case None:
            raise InvalidField.of(f"{field}.kind", None, "rl or sft")


def _rl_from_proto(message: training_pb2.RlGroup, field: str) -> RlGroup:
    required(message.HasField("request"), f"{field}.request", "the request")
    required(bool(message.rollouts), f"{field}.rollouts", "at least one rollout")
    request = _trainable(request_from_proto(message.request, f"{field}.request"), field)
    rollouts, rewards = scored_rollouts_from_proto(message.rollouts, f"{field}.rollouts")
    same_skill(request.skill, rollouts, field)
    target = None if message.WhichOneof("target") is None else _target_from_proto(message, request.skill, field)
    return RlGroup(request, rollouts, rewards, not message.unverified, target)


def _sft_from_proto(message: training_pb2.SftGroup, field: str) -> SftGroup:
    required(message.HasField("request"), f"{field}.request", "the request")
    request = _trainable(request_from_proto(message.request, f"{field}.request"), field)
    return SftGroup(request, _target_from_proto(message, request.skill, field))


def _target_from_proto(message: training_pb2.RlGroup | training_pb2.SftGroup, skill: Skill, field: str) -> Target:
    match message.WhichOneof("target"):
        case "answer":
            if skill is not Skill.QUERY:
                raise InvalidField.of(f"{field}.target", "answer", f"ground_truth for {skill}")
            return query_output_from_proto(message.answer, f"{field}.answer")
        case "ground_truth":
            if skill is Skill.QUERY:
                raise InvalidField.of(f"{field}.target", "ground_truth", "answer for query")
            truth = ground_truth_from_proto(message.ground_truth, f"{field}.ground_truth")
            truth.validate(skill, f"{field}.ground_truth")
            if truth.boxes is None and truth.points is None:
                raise InvalidField.of(
                    f"{field}.ground_truth", list(truth.labels), "boxes or points: decisions are made of them"
                )
            return truth
        case None:
            raise InvalidField.of(f"{field}.target", None, "answer or ground_truth")


def _trainable(request: SkillRequest, field: str) -> SkillRequest:
    if request.skill not in TRAINABLE_SKILLS:
        raise InvalidField.of(f"{field}.request", str(request.skill), "query, point or detect")
    return request


@encodes("header")
def train_header_to_proto(step: TrainStep) -> trainer_service_pb2.TrainStepHeader:
    """The header of a step's stream."""
    return trainer_service_pb2.TrainStepHeader(
        finetune_id=step.finetune_id,
        request_id=step.request_id,
        expected_step=step.expected_step,
        settings=train_settings_to_proto(step.settings),
        client_state=step.client_state,
        group_count=len(step.groups),
    )


def train_header_from_proto(
    message: trainer_service_pb2.TrainStepHeader, field: str = "header"
) -> tuple[TrainStep, int]:
    """The step, its groups still empty, and how many groups follow."""
    if not 1 <= message.group_count <= MAX_GROUPS:
        raise InvalidField.of(f"{field}.group_count", message.group_count, f"1 to {MAX_GROUPS}")
    expected_step = None
    if message.HasField("expected_step"):
        expected_step = at_least(message.expected_step, 0, f"{field}.expected_step")
    step = TrainStep(
        finetune_id=text(message.finetune_id, f"{field}.finetune_id"),
        request_id=request_id(message.request_id, f"{field}.request_id"),
        groups=(),
        settings=train_settings_from_proto(message.settings, f"{field}.settings"),
        expected_step=expected_step,
        client_state=client_state(message, field),
    )
    return step, message.group_count


def client_state(
    message: trainer_service_pb2.TrainStepHeader | trainer_service_pb2.SaveCheckpointRequest, field: str = ""
) -> bytes | None:
    """The opaque bytes of a step or a save, None where unset."""
    if not message.HasField("client_state"):
        return None
    if len(message.client_state) > MAX_CLIENT_STATE_BYTES:
        path = f"{field}.client_state".lstrip(".")
        raise InvalidField.of(path, f"{len(message.client_state)} bytes", f"at most {MAX_CLIENT_STATE_BYTES} bytes")
    return message.client_state


def train_step_to_messages(step: TrainStep) -> Iterator[trainer_service_pb2.TrainStepRequest]:
    """The messages of a step's stream: the header, then one group each; an image's bytes go once."""
    yield trainer_service_pb2.TrainStepRequest(header=train_header_to_proto(step))
    sent: set[str] = set()
    for group in step.groups:
        image = group.request.image
        if image is not None and image.sha256 in sent:
            group = replace(group, request=replace(group.request, image=image.named()))
        elif image is not None and image.data is not None:
            sent.add(image.sha256)
        yield trainer_service_pb2.TrainStepRequest(group=group_to_proto(group))


@encodes("result")
def train_result_to_proto(result: TrainStepResult) -> training_pb2.TrainStepResult:
    """The message."""
    return training_pb2.TrainStepResult(
        step=result.step,
        applied=result.applied,
        adapter_digest=result.adapter_digest,
        reason=result.reason,
        metrics=result.metrics,
        replayed=result.replayed,
    )


def train_result_from_proto(message: training_pb2.TrainStepResult, field: str = "result") -> TrainStepResult:
    """The value."""
    return TrainStepResult(
        step=at_least(message.step, 0, f"{field}.step"),
        applied=message.applied,
        adapter_digest=message.adapter_digest,
        reason=message.reason,
        metrics=finite_map(message.metrics, f"{field}.metrics"),
        replayed=message.replayed,
    )
