"""F-beta of boxes, soft (pairs earn their IoU) or hard (pairs earn 1 at a threshold).

With S the sum earned by the one-to-one match, P = S / n_pred and R = S / n_gt:

    F_beta = (1 + beta^2) P R / (beta^2 P + R) = (1 + beta^2) S / (beta^2 n_gt + n_pred)

beta below 1 punishes extra boxes more, above 1 punishes missed ones more. The match is exclusive: the published soft
F1 that lets every box take its best partner keeps precision high for duplicates.
"""

import numpy as np

from moontune.evaluation.matching import iou_matrix
from moontune.values.reward import RewardSample
from moontune.values.skill import Skill
from services.reward.catalogue.entry import Entry, Label, NumberParameter, Parameters
from services.reward.catalogue.objects import matched_total, predicted_boxes, true_boxes

_BETA = NumberParameter("beta", 1.0, 0.1, 10.0, "below 1 favours precision, above 1 recall")
_THRESHOLD = NumberParameter("iou_threshold", 0.5, 0.05, 1.0, "smallest IoU of a pair that counts")


def soft(sample: RewardSample, parameters: Parameters) -> float:
    """S is the sum of IoU."""
    actual = true_boxes(sample)
    earned = matched_total(predicted_boxes(sample), actual, lambda boxes: iou_matrix(boxes, actual))
    return _f_beta(sample, earned, parameters["beta"])


def hard(sample: RewardSample, parameters: Parameters) -> float:
    """S is the number of pairs at or above the threshold."""
    actual, threshold = true_boxes(sample), parameters["iou_threshold"]
    earned = matched_total(
        predicted_boxes(sample), actual, lambda boxes: (iou_matrix(boxes, actual) >= threshold).astype(np.float64)
    )
    return _f_beta(sample, earned, parameters["beta"])


def _f_beta(sample: RewardSample, earned: float, beta: float) -> float:
    predicted, actual = len(predicted_boxes(sample)), len(true_boxes(sample))
    denominator = beta * beta * actual + predicted
    return min(1.0, (1.0 + beta * beta) * earned / denominator) if denominator else 1.0


SOFT_F_BETA = Entry(
    name="soft_f_beta",
    description="(1 + beta^2) S / (beta^2 n_gt + n_pred), S the total IoU of the one-to-one match. "
    "Nothing there: 1 for silence, else 0.",
    skills=(Skill.DETECT,),
    label=Label.BOXES,
    grade=soft,
    parameters=(_BETA,),
)

HARD_F_BETA = Entry(
    name="hard_f_beta",
    description="(1 + beta^2) S / (beta^2 n_gt + n_pred), S the pairs with IoU at or above iou_threshold in the "
    "largest one-to-one match; beta 1 is F1. Nothing there: 1 for silence, else 0.",
    skills=(Skill.DETECT,),
    label=Label.BOXES,
    grade=hard,
    parameters=(_THRESHOLD, _BETA),
)
