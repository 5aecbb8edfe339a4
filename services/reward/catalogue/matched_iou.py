"""Matched IoU over the larger count: Moondream's automatic reward of detect."""

from moontune.evaluation.matching import iou_matrix
from moontune.values.reward import RewardSample
from moontune.values.skill import Skill
from services.reward.catalogue.entry import Entry, Label, Parameters
from services.reward.catalogue.objects import absent_target, matched_total, predicted_boxes, true_boxes


def grade(sample: RewardSample, parameters: Parameters) -> float:
    """Sum of IoU over the best one-to-one match, over max(n_pred, n_gt)."""
    predicted, actual = predicted_boxes(sample), true_boxes(sample)
    if not actual:
        return absent_target(len(predicted))
    total = matched_total(predicted, actual, lambda boxes: iou_matrix(boxes, actual))
    return total / max(len(predicted), len(actual))


MATCHED_IOU = Entry(
    name="matched_iou",
    description="sum of IoU over the one-to-one match with the largest total, divided by max(n_pred, n_gt). "
    "Nothing there: 1 for silence, else max(0, 0.5 - 0.2 (n_pred - 1)). Default of detect (Moondream's rule).",
    skills=(Skill.DETECT,),
    label=Label.BOXES,
    grade=grade,
)
