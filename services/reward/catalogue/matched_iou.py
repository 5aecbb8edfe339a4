"""Matched IoU over the larger count: Moondream's automatic reward of detect."""

from moontune.values.reward import RewardSample
from moontune.values.skill import Skill
from services.reward.catalogue.entry import Entry, Label
from services.reward.catalogue.objects import ABSENT, box_scores, over_larger_count
from services.reward.catalogue.parameters import ObjectParameters
from services.reward.reading.items import predicted_boxes


def grade(sample: RewardSample, parameters: ObjectParameters) -> float:
    """Sum of IoU over the best one-to-one match, over max(n_pred, n_gt)."""
    predicted, truth = predicted_boxes(sample, parameters.coordinates), sample.ground_truth
    return over_larger_count(box_scores(predicted, truth), predicted.keys(truth), truth.boxes or ())


MATCHED_IOU = Entry(
    name="matched_iou",
    formula="sum of IoU over the one-to-one match with the largest total (Hungarian), divided by max(n_pred, n_gt). "
    f"{ABSENT} Default of detect.",
    source="Moondream's automatic reward; Visual-RFT's code (greedy), VisionReasoner (Hungarian)",
    skills=(Skill.DETECT, Skill.QUERY),
    labels=(Label.BOXES,),
    parameters=ObjectParameters,
    grade=grade,
)
