"""Requests to the inference service: the rpc's task names the skill of the value."""

from moontune.api.inference.v1 import inference_service_pb2
from moontune.values.inference import InferenceRequest
from moontune.values.sampling import inference_defaults
from moontune.wire.checks import encodes, required, text
from moontune.wire.image import images_from_proto, images_to_proto
from moontune.wire.request import (
    caption_task_to_proto,
    detect_task_to_proto,
    point_task_to_proto,
    query_task_to_proto,
    task_from_proto,
)
from moontune.wire.sampling import sampling_to_proto

InferenceMessage = (
    inference_service_pb2.QueryRequest
    | inference_service_pb2.StreamQueryRequest
    | inference_service_pb2.PointRequest
    | inference_service_pb2.StreamPointRequest
    | inference_service_pb2.DetectRequest
    | inference_service_pb2.StreamDetectRequest
    | inference_service_pb2.CaptionRequest
    | inference_service_pb2.StreamCaptionRequest
)


@encodes("input")
def _input_to_proto(order: InferenceRequest) -> inference_service_pb2.ModelInput:
    return inference_service_pb2.ModelInput(
        model=order.model,
        images=images_to_proto(order.request.image),
        settings=sampling_to_proto(order.request.settings),
        seed=order.seed,
    )


def query_request_to_proto(order: InferenceRequest) -> inference_service_pb2.QueryRequest:
    """The message of Query."""
    task = query_task_to_proto(order.request)
    return inference_service_pb2.QueryRequest(input=_input_to_proto(order), task=task)


def stream_query_request_to_proto(order: InferenceRequest) -> inference_service_pb2.StreamQueryRequest:
    """The message of StreamQuery."""
    task = query_task_to_proto(order.request)
    return inference_service_pb2.StreamQueryRequest(input=_input_to_proto(order), task=task)


def point_request_to_proto(order: InferenceRequest) -> inference_service_pb2.PointRequest:
    """The message of Point."""
    task = point_task_to_proto(order.request)
    return inference_service_pb2.PointRequest(input=_input_to_proto(order), task=task)


def stream_point_request_to_proto(order: InferenceRequest) -> inference_service_pb2.StreamPointRequest:
    """The message of StreamPoint."""
    task = point_task_to_proto(order.request)
    return inference_service_pb2.StreamPointRequest(input=_input_to_proto(order), task=task)


def detect_request_to_proto(order: InferenceRequest) -> inference_service_pb2.DetectRequest:
    """The message of Detect."""
    task = detect_task_to_proto(order.request)
    return inference_service_pb2.DetectRequest(input=_input_to_proto(order), task=task)


def stream_detect_request_to_proto(order: InferenceRequest) -> inference_service_pb2.StreamDetectRequest:
    """The message of StreamDetect."""
    task = detect_task_to_proto(order.request)
    return inference_service_pb2.StreamDetectRequest(input=_input_to_proto(order), task=task)


def caption_request_to_proto(order: InferenceRequest) -> inference_service_pb2.CaptionRequest:
    """The message of Caption."""
    task = caption_task_to_proto(order.request)
    return inference_service_pb2.CaptionRequest(input=_input_to_proto(order), task=task)


def stream_caption_request_to_proto(order: InferenceRequest) -> inference_service_pb2.StreamCaptionRequest:
    """The message of StreamCaption."""
    task = caption_task_to_proto(order.request)
    return inference_service_pb2.StreamCaptionRequest(input=_input_to_proto(order), task=task)


def inference_request_from_proto(message: InferenceMessage) -> InferenceRequest:
    """The value of any of the eight requests; unset sampling settings take the defaults of inference.

    Only a caption's task may be left away. Fields of the task are named `task.<field>`, images `input.images`.
    """
    required(message.HasField("input"), "input", "model, images and settings")
    model = text(message.input.model, "input.model")
    image = images_from_proto(message.input.images, "input.images")
    request = task_from_proto(message.task, image, message.input.settings, inference_defaults, "task")
    seed = message.input.seed if message.input.HasField("seed") else None
    return InferenceRequest(model, request, seed)
