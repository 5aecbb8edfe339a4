"""Rewards that users bring."""

from google.protobuf import json_format

from moontune.api.reward.v1 import definition_pb2
from moontune.errors import InvalidField
from moontune.values.reward_definition import (
    CodeLanguage,
    ContainerReward,
    JudgeReward,
    RemoteReward,
    RewardDefinition,
    RewardSource,
    UserCode,
)
from moontune.wire.checks import EnumMap, each, encodes, finite, required, text
from moontune.wire.moments import duration_from_proto, duration_to_proto
from moontune.wire.skill import skill_from_proto, skill_to_proto

CODE_LANGUAGES = EnumMap(
    {
        CodeLanguage.PYTHON: definition_pb2.CODE_LANGUAGE_PYTHON,
        CodeLanguage.JAVASCRIPT: definition_pb2.CODE_LANGUAGE_JAVASCRIPT,
    }
)
MAX_CODE_BYTES = 256 * 1024
MAX_CONCURRENCY = 256


@encodes("definition")
def reward_definition_to_proto(definition: RewardDefinition) -> definition_pb2.RewardDefinition:
    """The message."""
    message = definition_pb2.RewardDefinition(
        name=definition.name,
        description=definition.description,
        skills=[skill_to_proto(skill) for skill in definition.skills],
        minimum=definition.minimum,
        maximum=definition.maximum,
    )
    match definition.source:
        case UserCode(language, source):
            code = definition_pb2.UserCode(language=CODE_LANGUAGES.encode(language), source=source)
            message.code.CopyFrom(code)
        case ContainerReward(image, command, timeout_s):
            timeout = duration_to_proto(timeout_s)
            message.container.CopyFrom(definition_pb2.ContainerReward(image=image, command=command, timeout=timeout))
        case RemoteReward(endpoint, timeout_s, concurrency):
            timeout = duration_to_proto(timeout_s)
            remote = definition_pb2.RemoteReward(endpoint=endpoint, timeout=timeout, max_concurrency=concurrency)
            message.remote.CopyFrom(remote)
        case JudgeReward() as judge:
            message.judge.CopyFrom(_judge_to_proto(judge))
    return message


def _judge_to_proto(judge: JudgeReward) -> definition_pb2.JudgeReward:
    return definition_pb2.JudgeReward(
        endpoint=judge.endpoint,
        model=judge.model,
        rubric=judge.rubric,
        with_image=judge.with_image,
        timeout=duration_to_proto(judge.timeout_s),
        max_concurrency=judge.max_concurrency,
    )


def reward_definition_from_proto(
    message: definition_pb2.RewardDefinition, field: str = "definition"
) -> RewardDefinition:
    """The value; hosts are checked against the operator's list elsewhere."""
    required(bool(message.skills), f"{field}.skills", "at least one skill")
    minimum = finite(message.minimum, f"{field}.minimum")
    maximum = finite(message.maximum, f"{field}.maximum") if message.HasField("maximum") else 1.0
    if not minimum < maximum:
        raise InvalidField.of(f"{field}.maximum", maximum, f"more than the minimum, {minimum:g}")
    return RewardDefinition(
        name=text(message.name, f"{field}.name"),
        skills=each(f"{field}.skills", message.skills, skill_from_proto),
        source=_source_from_proto(message, field),
        description=message.description,
        minimum=minimum,
        maximum=maximum,
    )


def reward_definition_to_json(definition: RewardDefinition) -> str:
    """The message as JSON with sorted keys: what is stored, and what a version is the digest of."""
    return json_format.MessageToJson(reward_definition_to_proto(definition), sort_keys=True, indent=None)


def reward_definition_from_json(text: str) -> RewardDefinition:
    """The value from `reward_definition_to_json`."""
    return reward_definition_from_proto(json_format.Parse(text, definition_pb2.RewardDefinition()))


def _source_from_proto(message: definition_pb2.RewardDefinition, field: str) -> RewardSource:
    match message.WhichOneof("source"):
        case "code":
            return _code_from_proto(message.code, f"{field}.code")
        case "container":
            return _container_from_proto(message.container, f"{field}.container")
        case "remote":
            return _remote_from_proto(message.remote, f"{field}.remote")
        case "judge":
            return _judge_from_proto(message.judge, f"{field}.judge")
        case None:
            raise InvalidField.of(f"{field}.source", None, "code, container, remote or judge")


def _code_from_proto(message: definition_pb2.UserCode, field: str) -> UserCode:
    source_bytes = len(text(message.source, f"{field}.source").encode())
    if source_bytes > MAX_CODE_BYTES:
        raise InvalidField.of(f"{field}.source", f"{source_bytes} bytes", f"at most {MAX_CODE_BYTES} bytes")
    return UserCode(CODE_LANGUAGES.decode(message.language, f"{field}.language"), message.source)


def _container_from_proto(message: definition_pb2.ContainerReward, field: str) -> ContainerReward:
    timeout_s = _timeout(message, 5.0, field)
    return ContainerReward(text(message.image, f"{field}.image"), tuple(message.command), timeout_s)


def _remote_from_proto(message: definition_pb2.RemoteReward, field: str) -> RemoteReward:
    endpoint = text(message.endpoint, f"{field}.endpoint")
    return RemoteReward(endpoint, _timeout(message, 5.0, field), _concurrency(message, field))


def _judge_from_proto(message: definition_pb2.JudgeReward, field: str) -> JudgeReward:
    return JudgeReward(
        model=text(message.model, f"{field}.model"),
        rubric=text(message.rubric, f"{field}.rubric"),
        endpoint=message.endpoint,
        with_image=message.with_image,
        timeout_s=_timeout(message, 30.0, field),
        max_concurrency=_concurrency(message, field),
    )


def _timeout(
    message: definition_pb2.ContainerReward | definition_pb2.RemoteReward | definition_pb2.JudgeReward,
    default_s: float,
    field: str,
) -> float:
    if not message.HasField("timeout"):
        return default_s
    seconds = duration_from_proto(message.timeout, f"{field}.timeout")
    if seconds == 0:
        raise InvalidField.of(f"{field}.timeout", seconds, "more than 0 s")
    return seconds


def _concurrency(message: definition_pb2.RemoteReward | definition_pb2.JudgeReward, field: str) -> int:
    if not message.HasField("max_concurrency"):
        return 8
    if not 1 <= message.max_concurrency <= MAX_CONCURRENCY:
        raise InvalidField.of(f"{field}.max_concurrency", message.max_concurrency, f"1 to {MAX_CONCURRENCY}")
    return message.max_concurrency
