"""F-beta of boxes, soft (pairs earn their IoU) or hard (pairs earn 1 at thresholds).

With S the sum earned by the one-to-one match, P = S / n_pred and R = S / n_gt:

    F_beta = (1 + beta^2) P R / (beta^2 P + R) = (1 + beta^2) S / (beta^2 n_gt + n_pred)

beta below 1 punishes extra boxes more, above 1 punishes missed ones more. The match is exclusive: the published soft
F1 that lets every box take its best partner keeps precision high for duplicates.
"""

import numpy as np
from pydantic import Field

from moontune.values.reward import RewardSample
from moontune.values.skill import Skill
from services.reward.catalogue.entry import Entry, Label
from services.reward.catalogue.objects import box_scores, matched_total
from services.reward.catalogue.parameters import ObjectParameters
from services.reward.reading.items import predicted_boxes

STEP = 0.05


class SoftParameters(ObjectParameters):
    """The dial between precision and recall."""

    beta: float = Field(1.0, ge=0.1, le=10.0, description="below 1 favours precision, above 1 recall")


class HardParameters(SoftParameters):
    """The dial, and where a pair counts."""

    iou_threshold: float = Field(0.5, ge=0.05, le=1.0, description="smallest IoU of a pair that counts")
    iou_threshold_max: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="above iou_threshold: the mean over thresholds from there to here in 0.05 steps",
    )


def soft(sample: RewardSample, parameters: SoftParameters) -> float:
    """S is the sum of IoU."""
    return _mean_f_beta(sample, parameters, ())


def hard(sample: RewardSample, parameters: HardParameters) -> float:
    """S is the number of pairs at or above the threshold; the mean over the thresholds."""
    first, last = parameters.iou_threshold, max(parameters.iou_threshold, parameters.iou_threshold_max)
    return _mean_f_beta(sample, parameters, [first + STEP * n for n in range(int((last - first) / STEP + 1e-6) + 1)])


def _mean_f_beta(sample: RewardSample, parameters: SoftParameters, thresholds: "list[float] | tuple[()]") -> float:
    """Mean over thresholds; none is the soft form."""
    predicted, truth = predicted_boxes(sample, parameters.coordinates), sample.ground_truth
    actual, square = truth.boxes or (), parameters.beta * parameters.beta
    denominator = square * len(actual) + len(predicted.boxes)
    if not denominator:
        return 1.0
    scores, keys = box_scores(predicted, truth), predicted.keys(truth)
    # An IoU that equals the threshold but for rounding reaches it.
    levels = [(scores >= least - 1e-9).astype(np.float64) for least in thresholds] or [scores]
    earned = sum(matched_total(level, keys, actual) for level in levels) / len(levels)
    return min(1.0, (1.0 + square) * earned / denominator)


_EMPTY = "Nothing there: 1 for silence, else 0."

SOFT_F_BETA = Entry(
    name="soft_f_beta",
    formula="(1 + beta^2) S / (beta^2 n_gt + n_pred), S the total IoU of the best one-to-one match. " + _EMPTY,
    source="Rex-Omni's soft F1, with an exclusive match so that duplicates cost",
    skills=(Skill.DETECT, Skill.QUERY),
    labels=(Label.BOXES,),
    parameters=SoftParameters,
    grade=soft,
)

HARD_F_BETA = Entry(
    name="hard_f_beta",
    formula="(1 + beta^2) S / (beta^2 n_gt + n_pred), S the pairs with IoU at or above iou_threshold in the largest "
    "one-to-one match; beta 1 is F1; with iou_threshold_max the mean over thresholds. " + _EMPTY,
    source="van Rijsbergen 1979; Perception-R1 at 0.5; thresholds 0.5 to 0.95 as in COCO",
    beware="steps: far from the thresholds nothing changes the score; mix it with soft_f_beta",
    skills=(Skill.DETECT, Skill.QUERY),
    labels=(Label.BOXES,),
    parameters=HardParameters,
    grade=hard,
)
