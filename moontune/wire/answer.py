"""Answers of the inference service, whole and in pieces."""

from moontune.api.inference.v1 import inference_service_pb2, model_info_pb2
from moontune.errors import InvalidField
from moontune.values.geometry import Box, Point
from moontune.values.inference import InferenceEvent, InferenceResult, TextDelta, Usage
from moontune.values.output import CaptionOutput, DetectOutput, Output, PointOutput, QueryOutput
from moontune.wire.checks import encodes, required, text
from moontune.wire.geometry import box_from_proto, box_to_proto, point_from_proto, point_to_proto
from moontune.wire.moments import duration_from_proto, duration_to_proto
from moontune.wire.output import (
    caption_output_to_proto,
    detect_output_from_proto,
    detect_output_to_proto,
    point_output_from_proto,
    point_output_to_proto,
    query_output_from_proto,
    query_output_to_proto,
)
from moontune.wire.policy import policy_from_proto, policy_to_proto
from moontune.wire.rollout import FINISH_REASONS

AnswerMessage = (
    inference_service_pb2.QueryResponse
    | inference_service_pb2.PointResponse
    | inference_service_pb2.DetectResponse
    | inference_service_pb2.CaptionResponse
)
EventMessage = (
    inference_service_pb2.StreamQueryResponse
    | inference_service_pb2.StreamPointResponse
    | inference_service_pb2.StreamDetectResponse
    | inference_service_pb2.StreamCaptionResponse
)


def query_answer_to_proto(result: InferenceResult) -> inference_service_pb2.QueryResponse:
    """The response of Query; the result holds a QueryOutput."""
    assert isinstance(result.output, QueryOutput)
    output = query_output_to_proto(result.output)
    return inference_service_pb2.QueryResponse(output=output, info=_info_to_proto(result))


def point_answer_to_proto(result: InferenceResult) -> inference_service_pb2.PointResponse:
    """The response of Point; the result holds a PointOutput."""
    assert isinstance(result.output, PointOutput)
    output = point_output_to_proto(result.output)
    return inference_service_pb2.PointResponse(output=output, info=_info_to_proto(result))


def detect_answer_to_proto(result: InferenceResult) -> inference_service_pb2.DetectResponse:
    """The response of Detect; the result holds a DetectOutput."""
    assert isinstance(result.output, DetectOutput)
    output = detect_output_to_proto(result.output)
    return inference_service_pb2.DetectResponse(output=output, info=_info_to_proto(result))


def caption_answer_to_proto(result: InferenceResult) -> inference_service_pb2.CaptionResponse:
    """The response of Caption; the result holds a CaptionOutput."""
    assert isinstance(result.output, CaptionOutput)
    output = caption_output_to_proto(result.output)
    return inference_service_pb2.CaptionResponse(output=output, info=_info_to_proto(result))


def answer_from_proto(message: AnswerMessage) -> InferenceResult:
    """The value of any of the four responses."""
    required(message.HasField("output"), "output", "an output")
    required(message.HasField("info"), "info", "policy, finish reason and usage")
    info = message.info
    required(info.HasField("policy"), "info.policy", "a policy version")
    return InferenceResult(
        output=_output_from_proto(message),
        policy=policy_from_proto(info.policy, "info.policy"),
        finish_reason=FINISH_REASONS.decode(info.finish_reason, "info.finish_reason"),
        usage=_usage_from_proto(info.usage, "info.usage"),
    )


def _output_from_proto(message: AnswerMessage) -> Output:
    if isinstance(message, inference_service_pb2.QueryResponse):
        return query_output_from_proto(message.output, "output")
    if isinstance(message, inference_service_pb2.PointResponse):
        return point_output_from_proto(message.output, "output")
    if isinstance(message, inference_service_pb2.DetectResponse):
        return detect_output_from_proto(message.output, "output")
    return CaptionOutput(message.output.caption)


@encodes("info")
def _info_to_proto(result: InferenceResult) -> inference_service_pb2.AnswerInfo:
    usage = model_info_pb2.Usage(
        input_tokens=result.usage.input_tokens,
        output_tokens=result.usage.output_tokens,
        queue_time=duration_to_proto(result.usage.queue_s),
        prefill_time=duration_to_proto(result.usage.prefill_s),
        decode_time=duration_to_proto(result.usage.decode_s),
    )
    return inference_service_pb2.AnswerInfo(
        policy=policy_to_proto(result.policy), finish_reason=FINISH_REASONS.encode(result.finish_reason), usage=usage
    )


def _usage_from_proto(message: model_info_pb2.Usage, field: str) -> Usage:
    return Usage(
        input_tokens=message.input_tokens,
        output_tokens=message.output_tokens,
        queue_s=duration_from_proto(message.queue_time, f"{field}.queue_time"),
        prefill_s=duration_from_proto(message.prefill_time, f"{field}.prefill_time"),
        decode_s=duration_from_proto(message.decode_time, f"{field}.decode_time"),
    )


def query_event_to_proto(event: InferenceEvent) -> inference_service_pb2.StreamQueryResponse:
    """One message of StreamQuery."""
    assert isinstance(event, TextDelta | InferenceResult)
    if isinstance(event, TextDelta):
        return inference_service_pb2.StreamQueryResponse(delta=_delta_to_proto(event))
    return inference_service_pb2.StreamQueryResponse(done=query_answer_to_proto(event))


def point_event_to_proto(event: InferenceEvent) -> inference_service_pb2.StreamPointResponse:
    """One message of StreamPoint."""
    assert isinstance(event, Point | InferenceResult)
    if isinstance(event, Point):
        return inference_service_pb2.StreamPointResponse(point=point_to_proto(event))
    return inference_service_pb2.StreamPointResponse(done=point_answer_to_proto(event))


def detect_event_to_proto(event: InferenceEvent) -> inference_service_pb2.StreamDetectResponse:
    """One message of StreamDetect."""
    assert isinstance(event, Box | InferenceResult)
    if isinstance(event, Box):
        return inference_service_pb2.StreamDetectResponse(object=box_to_proto(event))
    return inference_service_pb2.StreamDetectResponse(done=detect_answer_to_proto(event))


def caption_event_to_proto(event: InferenceEvent) -> inference_service_pb2.StreamCaptionResponse:
    """One message of StreamCaption."""
    assert isinstance(event, TextDelta | InferenceResult)
    if isinstance(event, TextDelta):
        return inference_service_pb2.StreamCaptionResponse(delta=_delta_to_proto(event))
    return inference_service_pb2.StreamCaptionResponse(done=caption_answer_to_proto(event))


def _delta_to_proto(delta: TextDelta) -> inference_service_pb2.TextDelta:
    return inference_service_pb2.TextDelta(text=delta.text, reasoning=delta.reasoning)


def event_from_proto(message: EventMessage) -> InferenceEvent:
    """The value of one message of any of the four streams."""
    payload = message.WhichOneof("payload")
    if payload == "done":
        return answer_from_proto(message.done)
    if payload is None:
        raise InvalidField.of("payload", None, "a piece or the whole answer")
    if isinstance(message, inference_service_pb2.StreamPointResponse):
        return point_from_proto(message.point, "point")
    if isinstance(message, inference_service_pb2.StreamDetectResponse):
        return box_from_proto(message.object, "object")
    return TextDelta(text(message.delta.text, "delta.text"), message.delta.reasoning)
