"""Bodies to values and values to bodies, but for rollouts (`rollout_objects`) and groups (`groups`)."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from moontune.errors import InvalidField
from moontune.values.finetune import Checkpoint, Finetune
from moontune.values.geometry import Box, Point
from moontune.values.ground_truth import GroundTruth
from moontune.values.image import Image
from moontune.values.output import CaptionOutput, DetectOutput, Output, PointOutput, QueryOutput, Reasoning
from moontune.values.request import SkillRequest, SpatialRef
from moontune.values.sampling import SamplingSettings
from moontune.values.skill import Skill
from services.gateway.schemas import GroundTruthBody, PointBody, RegionBody, SettingsBody, SkillRequestBody

Json = dict[str, "JsonValue"]
JsonValue = str | int | float | bool | None | Sequence["JsonValue"] | Json


def settings_of(body: SettingsBody | None, defaults: SamplingSettings) -> SamplingSettings:
    """The defaults with what the body sets."""
    given = body.model_dump(exclude_none=True) if body else {}
    return replace(defaults, **given)


def spatial_refs_of(refs: Sequence[Sequence[float]] | None, field: str) -> tuple[SpatialRef, ...]:
    """`[x, y]` to points, `[x1, y1, x2, y2]` to boxes."""
    found: list[SpatialRef] = []
    for index, ref in enumerate(refs or ()):
        if len(ref) == 2:
            found.append(Point(ref[0], ref[1]))
        elif len(ref) == 4:
            found.append(Box(ref[0], ref[1], ref[2], ref[3]))
        else:
            raise InvalidField.of(f"{field}[{index}]", list(ref), "[x, y] or [x_min, y_min, x_max, y_max]")
    return tuple(found)


def request_of(body: SkillRequestBody, defaults: SamplingSettings, field: str, image: Image | None) -> SkillRequest:
    """A tuning request, checked. image: what its image_url holds."""
    skill = Skill(body.skill)
    request = SkillRequest(
        skill=skill,
        image=image,
        question=(body.question or "") if skill is Skill.QUERY else "",
        object=(body.object or "") if skill is not Skill.QUERY else "",
        spatial_refs=spatial_refs_of(body.spatial_refs, f"{field}.spatial_refs"),
        reasoning=bool(body.reasoning),
        settings=settings_of(body.settings, defaults),
    )
    request.validate(field)
    return request


def ground_truth_of(body: GroundTruthBody, skill: Skill, field: str = "ground_truth") -> GroundTruth:
    """Labels of a rollouts request, checked: detect takes boxes, point takes boxes or points, query none."""
    if skill is Skill.QUERY:
        raise InvalidField.of(field, sorted(body.model_fields_set), "none for query; score the answers yourself")
    truth = GroundTruth(
        boxes=None if body.boxes is None else boxes_of(body.boxes),
        points=None if body.points is None else points_of(body.points),
    )
    truth.validate(skill, field)
    return truth


def boxes_of(bodies: Sequence[RegionBody]) -> tuple[Box, ...]:
    """Boxes in their order."""
    return tuple(Box(body.x_min, body.y_min, body.x_max, body.y_max) for body in bodies)


def points_of(bodies: Sequence[PointBody]) -> tuple[Point, ...]:
    """Points in their order."""
    return tuple(Point(body.x, body.y) for body in bodies)


def output_json(output: Output) -> Json:
    """The answer in the API's words: answer and reasoning, points, objects, or caption."""
    if isinstance(output, QueryOutput):
        answer: Json = {"answer": output.answer}
        if output.reasoning is not None:
            answer["reasoning"] = _reasoning_json(output.reasoning)
        return answer
    if isinstance(output, PointOutput):
        return {"points": [{"x": point.x, "y": point.y} for point in output.points]}
    if isinstance(output, CaptionOutput):
        return {"caption": output.caption}
    return {"objects": [_box_json(box) for box in _objects(output)]}


def finetune_json(finetune: Finetune) -> Json:
    """FinetuneInfo."""
    return {
        "finetune_id": finetune.id,
        "name": finetune.name,
        "rank": finetune.lora.rank,
        "created_at_ms": _ms(finetune.created_at),
        "updated_at_ms": _ms(finetune.updated_at),
        "step": finetune.step,
        "base": finetune.base,
    }


def checkpoint_json(checkpoint: Checkpoint) -> Json:
    """CheckpointInfo."""
    return {
        "checkpoint_id": checkpoint.id,
        "finetune_id": checkpoint.finetune_id,
        "step": checkpoint.step,
        "expires_at_ms": None if checkpoint.expires_at is None else _ms(checkpoint.expires_at),
        "created_at_ms": _ms(checkpoint.created_at),
        "updated_at_ms": _ms(checkpoint.created_at),
        "adapter_digest": checkpoint.adapter_digest,
    }


def _objects(output: DetectOutput) -> tuple[Box, ...]:
    return output.objects


def _box_json(box: Box) -> Json:
    return {"x_min": box.x_min, "y_min": box.y_min, "x_max": box.x_max, "y_max": box.y_max}


def _reasoning_json(reasoning: Reasoning) -> Json:
    return {
        "text": reasoning.text,
        "grounding": [
            {"start_idx": span.start, "end_idx": span.end, "points": [[point.x, point.y] for point in span.points]}
            for span in reasoning.grounding
        ],
    }


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
