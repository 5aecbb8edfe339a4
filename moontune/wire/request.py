"""Skill requests: the task of the message names the skill of the value."""

from collections.abc import Callable

from moontune.api.common.v1 import request_pb2, sampling_pb2
from moontune.errors import InvalidField
from moontune.values.image import Image
from moontune.values.request import CAPTION_LENGTHS, SkillRequest
from moontune.values.sampling import SamplingSettings, rollout_defaults
from moontune.values.skill import Skill
from moontune.wire.checks import EnumMap, each, encodes
from moontune.wire.geometry import spatial_ref_from_proto, spatial_ref_to_proto
from moontune.wire.image import images_from_proto, images_to_proto
from moontune.wire.sampling import sampling_from_proto, sampling_to_proto

Defaults = Callable[[Skill], SamplingSettings]
Task = request_pb2.QueryTask | request_pb2.PointTask | request_pb2.DetectTask | request_pb2.CaptionTask

_LENGTHS = EnumMap(
    {
        "short": request_pb2.CAPTION_LENGTH_SHORT,
        "normal": request_pb2.CAPTION_LENGTH_NORMAL,
        "long": request_pb2.CAPTION_LENGTH_LONG,
    }
)


@encodes("request")
def request_to_proto(request: SkillRequest) -> request_pb2.SkillRequest:
    """The message; the image goes as bytes where the value holds them."""
    message = request_pb2.SkillRequest(
        images=images_to_proto(request.image), settings=sampling_to_proto(request.settings)
    )
    if request.skill is Skill.QUERY:
        message.query.CopyFrom(query_task_to_proto(request))
    elif request.skill is Skill.POINT:
        message.point.CopyFrom(point_task_to_proto(request))
    elif request.skill is Skill.DETECT:
        message.detect.CopyFrom(detect_task_to_proto(request))
    else:
        message.caption.CopyFrom(caption_task_to_proto(request))
    return message


def request_from_proto(
    message: request_pb2.SkillRequest, field: str = "request", defaults: Defaults = rollout_defaults
) -> SkillRequest:
    """The value; `defaults` fills sampling settings that are unset."""
    image = images_from_proto(message.images, f"{field}.images")
    return task_from_proto(_task(message, field), image, message.settings, defaults, field)


def _task(message: request_pb2.SkillRequest, field: str) -> Task:
    match message.WhichOneof("task"):
        case "query":
            return message.query
        case "point":
            return message.point
        case "detect":
            return message.detect
        case "caption":
            return message.caption
        case None:
            raise InvalidField.of(f"{field}.task", None, "query, point, detect or caption")


def query_task_to_proto(request: SkillRequest) -> request_pb2.QueryTask:
    """The task of a query request."""
    refs = [spatial_ref_to_proto(ref) for ref in request.spatial_refs]
    return request_pb2.QueryTask(question=request.question, spatial_refs=refs, reasoning=request.reasoning)


def point_task_to_proto(request: SkillRequest) -> request_pb2.PointTask:
    """The task of a point request."""
    refs = [spatial_ref_to_proto(ref) for ref in request.spatial_refs]
    return request_pb2.PointTask(object=request.object, spatial_refs=refs)


def detect_task_to_proto(request: SkillRequest) -> request_pb2.DetectTask:
    """The task of a detect request."""
    return request_pb2.DetectTask(object=request.object)


def caption_task_to_proto(request: SkillRequest) -> request_pb2.CaptionTask:
    """The task of a caption request."""
    if request.length not in CAPTION_LENGTHS:
        raise InvalidField.of("request.length", request.length, ", ".join(CAPTION_LENGTHS))
    return request_pb2.CaptionTask(length=_LENGTHS.encode(request.length))


def task_from_proto(
    task: Task, image: Image | None, settings: sampling_pb2.SamplingSettings, defaults: Defaults, field: str
) -> SkillRequest:
    """The value of a task with its image and settings, every rule of its skill checked."""
    request = _bare_request(task, image, settings, defaults, field)
    request.validate(field)
    return request


def _bare_request(
    task: Task, image: Image | None, settings: sampling_pb2.SamplingSettings, defaults: Defaults, field: str
) -> SkillRequest:
    def sampling(skill: Skill) -> SamplingSettings:
        return sampling_from_proto(settings, defaults(skill), f"{field}.settings")

    if isinstance(task, request_pb2.QueryTask):
        refs = each(f"{field}.spatial_refs", task.spatial_refs, spatial_ref_from_proto)
        return SkillRequest(
            Skill.QUERY,
            image,
            question=task.question,
            spatial_refs=refs,
            reasoning=task.reasoning,
            settings=sampling(Skill.QUERY),
        )
    if isinstance(task, request_pb2.PointTask):
        refs = each(f"{field}.spatial_refs", task.spatial_refs, spatial_ref_from_proto)
        return SkillRequest(Skill.POINT, image, object=task.object, spatial_refs=refs, settings=sampling(Skill.POINT))
    if isinstance(task, request_pb2.DetectTask):
        return SkillRequest(Skill.DETECT, image, object=task.object, settings=sampling(Skill.DETECT))
    length = _LENGTHS.decode_or(task.length, f"{field}.length", "normal")
    return SkillRequest(Skill.CAPTION, image, length=length, settings=sampling(Skill.CAPTION))
