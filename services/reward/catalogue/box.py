"""One box asked for: IoU, its steps, and GIoU. Saying more than one box is no answer; any labelled box is right."""

import math
from collections.abc import Callable

from pydantic import Field

from moontune.evaluation.matching import MAX_COORDINATE
from moontune.values.geometry import Box, giou, iou
from moontune.values.reward import RewardSample
from moontune.values.skill import Skill
from services.reward.catalogue.entry import Entry, Label
from services.reward.catalogue.objects import absent_target, same_category
from services.reward.catalogue.parameters import ObjectParameters
from services.reward.reading.items import predicted_boxes


class StepParameters(ObjectParameters):
    """Where the step is."""

    iou_threshold: float = Field(0.5, ge=0.05, le=1.0, description="smallest IoU that earns 1")


class ClipParameters(ObjectParameters):
    """Where the ramp begins and ends."""

    low: float = Field(0.5, ge=0.0, le=0.95, description="IoU below this earns 0")
    high: float = Field(0.75, ge=0.05, le=1.0, description="IoU above this earns 1; between them the IoU itself")


def grade_iou(sample: RewardSample, parameters: ObjectParameters) -> float:
    """IoU of the one box."""
    return _one_box(sample, parameters, iou)


def grade_step(sample: RewardSample, parameters: StepParameters) -> float:
    """1 where the IoU reaches the threshold."""
    return _one_box(sample, parameters, lambda a, b: float(iou(a, b) >= parameters.iou_threshold))


def grade_clipped(sample: RewardSample, parameters: ClipParameters) -> float:
    """IoU with a floor and a ceiling."""

    def clipped(a: Box, b: Box) -> float:
        overlap = iou(a, b)
        if overlap < parameters.low:
            return 0.0
        return 1.0 if overlap > parameters.high else overlap

    return _one_box(sample, parameters, clipped)


def grade_giou(sample: RewardSample, parameters: ObjectParameters) -> float:
    """Generalised IoU of the one box."""
    return _one_box(sample, parameters, giou, least=-1.0)


def _one_box(
    sample: RewardSample, parameters: ObjectParameters, score: Callable[[Box, Box], float], least: float = 0.0
) -> float:
    predicted, truth = predicted_boxes(sample, parameters.coordinates), sample.ground_truth
    if not truth.boxes:
        return least + (1.0 - least) * absent_target(len(predicted.boxes))
    if len(predicted.boxes) != 1 or not _usable(box := predicted.boxes[0]):
        return least
    right = truth.boxes
    if truth.categories is not None and predicted.categories is not None:
        said = same_category(predicted.categories[0])
        right = [one for one, name in zip(right, truth.categories, strict=True) if same_category(name) == said]
    return max((score(box, one) for one in right), default=least)


def _usable(box: Box) -> bool:
    corners = (box.x_min, box.y_min, box.x_max, box.y_max)
    return all(math.isfinite(corner) and abs(corner) <= MAX_COORDINATE for corner in corners)


_SKILLS, _LABELS = (Skill.DETECT, Skill.QUERY), (Label.BOXES,)
_RULES = "of the one box said with the labelled box it fits best; 0 for no box or several."
_EMPTY = "Nothing there: 1 for silence, 0.5 for one box, then 0.3, 0.1, 0."

IOU = Entry(
    name="iou",
    formula=f"|b and g| / |b or g| {_RULES} {_EMPTY}",
    source="VLM-R1 (REC), Visual-RFT, Perception-R1",
    beware="boxes that do not touch all score 0, however far they are: giou tells them apart",
    skills=_SKILLS,
    labels=_LABELS,
    parameters=ObjectParameters,
    grade=grade_iou,
)

STEP_IOU = Entry(
    name="step_iou",
    formula=f"1 where the IoU reaches iou_threshold, else 0, {_RULES} {_EMPTY}",
    source="Seg-Zero, VisionReasoner (threshold 0.5)",
    beware="many groups are dead: all attempts above the step, or all below",
    skills=_SKILLS,
    labels=_LABELS,
    parameters=StepParameters,
    grade=grade_step,
)

CLIPPED_IOU = Entry(
    name="clipped_iou",
    formula=f"0 where the IoU is below low, 1 above high, between them the IoU, {_RULES} {_EMPTY}",
    source="Vision-R1 (progressive rules: 0.5 and 0.75, later 0.75 and 0.9)",
    skills=_SKILLS,
    labels=_LABELS,
    parameters=ClipParameters,
    grade=grade_clipped,
)

GIOU = Entry(
    name="giou",
    formula="IoU - (|hull| - |b or g|) / |hull| of the one box said with the labelled box it fits best; -1 for no box, "
    "several, or one without area. Nothing there: 1 for silence, 0 for one box, then -0.4, -0.8, -1.",
    source="Rezatofighi et al. 2019; Visual-RFT (LISA), Vision-R1",
    beware="its range is twice that of the others: set normalise in a composite",
    skills=_SKILLS,
    labels=_LABELS,
    parameters=ObjectParameters,
    grade=grade_giou,
    minimum=-1.0,
)
