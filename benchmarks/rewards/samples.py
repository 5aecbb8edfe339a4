"""Samples of a given size for every built-in: labels at random, answers near them."""

import json
from collections.abc import Sequence

import numpy as np

from moontune.values.geometry import Box, Point
from moontune.values.ground_truth import GroundTruth
from moontune.values.image import Image
from moontune.values.image_size import ImageSize
from moontune.values.mask import PolygonMask
from moontune.values.output import DetectOutput, Output, PointOutput, QueryOutput
from moontune.values.pose import Pose
from moontune.values.request import SkillRequest
from moontune.values.reward import RewardSample
from moontune.values.skill import Skill
from services.reward.catalogue.entry import AnyEntry, Label

NOISE = 0.02


def samples_for(entry: AnyEntry, objects: int, count: int, seed: int = 0) -> list[RewardSample]:
    """`count` samples with `objects` labels each (words, for texts), and as many objects in the answer."""
    draw = np.random.default_rng(seed)
    return [_sample(entry, objects, draw) for _ in range(count)]


def _sample(entry: AnyEntry, objects: int, draw: np.random.Generator) -> RewardSample:
    boxes = _boxes(draw, objects)
    near = [_moved(box, draw) for box in boxes]
    skill = next(skill for skill in (Skill.DETECT, Skill.POINT, Skill.QUERY) if skill in entry.skills)
    label = entry.labels[0] if entry.labels else None
    output, truth = _labelled(skill, label, boxes, near, draw)
    asked = {"question": "what?"} if skill is Skill.QUERY else {"object": "thing"}
    return RewardSample(SkillRequest(skill, Image("0" * 64), **asked), output, truth, 100)


def _labelled(
    skill: Skill, label: Label | None, boxes: Sequence[Box], near: Sequence[Box], draw: np.random.Generator
) -> tuple[Output, GroundTruth]:
    if skill is Skill.DETECT:
        return DetectOutput(tuple(near)), GroundTruth(boxes=tuple(boxes))
    if label is Label.MASKS:
        masks = GroundTruth(masks=tuple(map(_mask, boxes)), image_size=ImageSize(256, 256))
        if skill is Skill.POINT:
            return PointOutput(tuple(box.centre for box in near)), masks
        return QueryOutput(json.dumps([{"polygon": _ring(box)} for box in near])), masks
    if label is Label.POSES:
        poses = tuple(Pose((box.centre, Point(box.x_min, box.y_min)), max(1e-3, box.area)) for box in boxes)
        if skill is Skill.POINT:
            return PointOutput((near[0].centre, Point(near[0].x_min, near[0].y_min))), GroundTruth(poses=poses)
    if skill is Skill.POINT:
        labels = {"boxes": tuple(boxes)} if label is Label.BOXES else {"points": tuple(box.centre for box in boxes)}
        return PointOutput(tuple(box.centre for box in near)), GroundTruth(**labels)
    if label is Label.BOXES:
        written = [{"bbox_2d": [b.x_min, b.y_min, b.x_max, b.y_max], "confidence": 0.5} for b in near]
        return QueryOutput(json.dumps(written)), GroundTruth(boxes=tuple(boxes))
    words = " ".join(f"word{number}" for number in draw.integers(0, 1000, len(boxes)))
    return QueryOutput(f"{words} yes (A) 7"), GroundTruth(answers=(f"{words} no (B) 8",))


def _boxes(draw: np.random.Generator, count: int) -> list[Box]:
    starts, sides = draw.uniform(0, 0.75, (count, 2)), draw.uniform(0.05, 0.2, (count, 2))
    return [Box(*map(float, (x, y, x + w, y + h))) for (x, y), (w, h) in zip(starts, sides, strict=True)]


def _moved(box: Box, draw: np.random.Generator) -> Box:
    across, down = draw.normal(0, NOISE, 2).clip(-0.04, 0.04).tolist()
    return Box(
        max(0.0, box.x_min + across),
        max(0.0, box.y_min + down),
        min(1.0, box.x_max + across),
        min(1.0, box.y_max + down),
    )


def _ring(box: Box) -> list[list[float]]:
    return [[box.x_min, box.y_min], [box.x_max, box.y_min], [box.x_max, box.y_max], [box.x_min, box.y_max]]


def _mask(box: Box) -> PolygonMask:
    return PolygonMask((tuple(Point(*corner) for corner in _ring(box)),))
