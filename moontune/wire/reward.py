"""Reward specs, samples, results and catalogue entries."""

from collections.abc import Mapping

from google.protobuf import json_format

from moontune.api.reward.v1 import reward_pb2
from moontune.errors import InvalidField
from moontune.values.ground_truth import GroundTruth
from moontune.values.reward import (
    Parameter,
    ParseStatus,
    RewardComponent,
    RewardInfo,
    RewardParameter,
    RewardResult,
    RewardSample,
    RewardSpec,
)
from moontune.values.skill import Skill
from moontune.wire.checks import EnumMap, at_least, each, encodes, finite, finite_map, required, text
from moontune.wire.ground_truth import ground_truth_from_proto, ground_truth_to_proto
from moontune.wire.output import output_from_proto, output_to_proto, skill_of
from moontune.wire.request import request_from_proto, request_to_proto
from moontune.wire.skill import skill_from_proto, skill_to_proto

PARSE_STATUSES = EnumMap(
    {
        ParseStatus.OK: reward_pb2.PARSE_STATUS_OK,
        ParseStatus.UNPARSED: reward_pb2.PARSE_STATUS_UNPARSED,
        ParseStatus.FAILED: reward_pb2.PARSE_STATUS_FAILED,
    }
)


def parameter_to_proto(value: Parameter) -> reward_pb2.ParameterValue:
    """The message; a bool is a flag, never a number."""
    if isinstance(value, bool):
        return reward_pb2.ParameterValue(flag=value)
    if isinstance(value, str):
        return reward_pb2.ParameterValue(text=value)
    return reward_pb2.ParameterValue(number=value)


def parameter_from_proto(message: reward_pb2.ParameterValue, field: str = "parameter") -> Parameter:
    """The value."""
    match message.WhichOneof("value"):
        case "number":
            return finite(message.number, f"{field}.number")
        case "text":
            return message.text
        case "flag":
            return message.flag
        case None:
            raise InvalidField.of(f"{field}.value", None, "number, text or flag")


def parameters_from_proto(messages: Mapping[str, reward_pb2.ParameterValue], field: str) -> dict[str, Parameter]:
    """Values by name."""
    return {name: parameter_from_proto(messages[name], f"{field}[{name!r}]") for name in sorted(messages)}


@encodes("reward")
def reward_spec_to_proto(spec: RewardSpec) -> reward_pb2.RewardSpec:
    """The message."""
    return reward_pb2.RewardSpec(components=[_component_to_proto(component) for component in spec.components])


def reward_spec_from_proto(message: reward_pb2.RewardSpec, field: str = "reward") -> RewardSpec:
    """The value; it has at least one component. Names and parameters are checked against the catalogue elsewhere."""
    required(bool(message.components), f"{field}.components", "at least one component")
    return RewardSpec(each(f"{field}.components", message.components, _component_from_proto))


def _component_to_proto(component: RewardComponent) -> reward_pb2.RewardComponent:
    return reward_pb2.RewardComponent(
        name=component.name,
        weight=component.weight,
        gate=component.gate,
        parameters={name: parameter_to_proto(value) for name, value in component.parameters.items()},
        normalise=component.normalise,
        clip_minimum=component.clip_minimum,
        clip_maximum=component.clip_maximum,
        gate_threshold=component.gate_threshold,
    )


def _component_from_proto(message: reward_pb2.RewardComponent, field: str) -> RewardComponent:
    return RewardComponent(
        name=text(message.name, f"{field}.name"),
        weight=finite(message.weight, f"{field}.weight") if message.HasField("weight") else 1.0,
        gate=message.gate,
        parameters=parameters_from_proto(message.parameters, f"{field}.parameters"),
        normalise=message.normalise,
        clip_minimum=finite(message.clip_minimum, f"{field}.clip_minimum")
        if message.HasField("clip_minimum")
        else None,
        clip_maximum=finite(message.clip_maximum, f"{field}.clip_maximum")
        if message.HasField("clip_maximum")
        else None,
        gate_threshold=(
            finite(message.gate_threshold, f"{field}.gate_threshold") if message.HasField("gate_threshold") else None
        ),
    )


def optional_ground_truth(truth: GroundTruth) -> GroundTruth | None:
    """The ground truth, or None where nothing is labelled: a sample without labels leaves the message away."""
    return None if truth == GroundTruth() else truth


@encodes("sample")
def reward_sample_to_proto(sample: RewardSample) -> reward_pb2.RewardSample:
    """The message."""
    truth = optional_ground_truth(sample.ground_truth)
    return reward_pb2.RewardSample(
        request=request_to_proto(sample.request),
        output=output_to_proto(sample.output),
        ground_truth=None if truth is None else ground_truth_to_proto(truth),
        token_count=sample.token_count,
    )


def reward_sample_from_proto(message: reward_pb2.RewardSample, field: str = "sample") -> RewardSample:
    """The value; the output is of the request's skill, and labels fit it."""
    required(message.HasField("request"), f"{field}.request", "the request")
    required(message.HasField("output"), f"{field}.output", "an output")
    request = request_from_proto(message.request, f"{field}.request")
    output = output_from_proto(message.output, f"{field}.output")
    if skill_of(output) is not request.skill:
        raise InvalidField.of(f"{field}.output", str(skill_of(output)), f"an output of {request.skill}")
    truth = GroundTruth()
    if message.HasField("ground_truth"):
        truth = ground_truth_from_proto(message.ground_truth, f"{field}.ground_truth")
        truth.validate(request.skill, f"{field}.ground_truth")
    count = at_least(message.token_count, 0, f"{field}.token_count") if message.HasField("token_count") else None
    return RewardSample(request, output, truth, count)


@encodes("result")
def reward_result_to_proto(result: RewardResult) -> reward_pb2.RewardResult:
    """The message."""
    return reward_pb2.RewardResult(
        reward=result.reward,
        components=result.components,
        status=PARSE_STATUSES.encode(result.status),
        detail=result.detail,
    )


def reward_result_from_proto(message: reward_pb2.RewardResult, field: str = "result") -> RewardResult:
    """The value; every number is finite."""
    return RewardResult(
        reward=finite(message.reward, f"{field}.reward") if message.HasField("reward") else None,
        components=finite_map(message.components, f"{field}.components"),
        status=PARSE_STATUSES.decode(message.status, f"{field}.status"),
        detail=message.detail,
    )


@encodes("reward")
def reward_info_to_proto(info: RewardInfo) -> reward_pb2.RewardInfo:
    """The message."""
    return reward_pb2.RewardInfo(
        name=info.name,
        description=info.description,
        skills=[skill_to_proto(Skill(skill)) for skill in info.skills],
        parameters=[
            reward_pb2.RewardParameter(
                name=parameter.name,
                default_value=parameter_to_proto(parameter.default),
                description=parameter.description,
            )
            for parameter in info.parameters
        ],
        minimum=info.minimum,
        maximum=info.maximum,
        parameters_schema=info.parameters_schema,
        labels=info.labels,
    )


def reward_info_from_proto(message: reward_pb2.RewardInfo, field: str = "reward") -> RewardInfo:
    """The value; a parameter's kind is that of its default."""
    return RewardInfo(
        name=text(message.name, f"{field}.name"),
        description=message.description,
        skills=tuple(str(skill) for skill in each(f"{field}.skills", message.skills, skill_from_proto)),
        parameters=each(f"{field}.parameters", message.parameters, _reward_parameter_from_proto),
        minimum=finite(message.minimum, f"{field}.minimum"),
        maximum=finite(message.maximum, f"{field}.maximum"),
        parameters_schema=message.parameters_schema,
        labels=tuple(message.labels),
    )


def reward_info_to_json(info: RewardInfo) -> str:
    """The message as JSON, for storing."""
    return json_format.MessageToJson(reward_info_to_proto(info), sort_keys=True, indent=None)


def reward_info_from_json(text: str) -> RewardInfo:
    """The value from `reward_info_to_json`."""
    return reward_info_from_proto(json_format.Parse(text, reward_pb2.RewardInfo()))


def _reward_parameter_from_proto(message: reward_pb2.RewardParameter, field: str) -> RewardParameter:
    default = parameter_from_proto(message.default_value, f"{field}.default_value")
    kind = message.default_value.WhichOneof("value")
    return RewardParameter(text(message.name, f"{field}.name"), kind or "number", default, message.description)
