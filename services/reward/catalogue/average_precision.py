"""Mean average precision with a penalty on length: what VLM-R1 called odLength, without its traps.

    reward = mAP * min(1, n_gt / n_pred),   mAP = mean over categories and thresholds of the 101-point AP

Against the published form: a category that the truth does not know counts as one with AP 0 (VLM-R1 dropped such boxes,
so they cost nothing), boxes of equal confidence are one point of the curve (COCO takes them in the order said), and
copies of a box cannot each match.
"""

import numpy as np
import numpy.typing as npt
from pydantic import Field

from moontune.evaluation.matching import Scores, iou_matrix, most_matches
from moontune.values.geometry import Box
from moontune.values.reward import RewardSample
from moontune.values.skill import Skill
from services.reward.catalogue.entry import Entry, Label
from services.reward.catalogue.objects import absent_target, first_copies, same_category
from services.reward.catalogue.parameters import ObjectParameters
from services.reward.reading.items import Boxes, predicted_boxes

RECALLS = 100
"""Steps of recall: 0, 0.01, ... 1."""
STEP = 0.05


class PrecisionParameters(ObjectParameters):
    """Thresholds, and whether length is punished."""

    iou_threshold: float = Field(0.5, ge=0.05, le=1.0, description="smallest IoU of a pair that counts")
    iou_threshold_max: float = Field(
        0.95, ge=0.0, le=1.0, description="mean over thresholds from iou_threshold to here in 0.05 steps"
    )
    length_penalty: bool = Field(True, description="multiply by min(1, n_gt / n_pred)")


def grade(sample: RewardSample, parameters: PrecisionParameters) -> float:
    """Mean average precision of one image times the length penalty."""
    predicted, truth = predicted_boxes(sample, parameters.coordinates), sample.ground_truth
    actual = truth.boxes or ()
    if not actual:
        return absent_target(len(predicted.boxes))
    if not predicted.boxes:
        return 0.0
    first, last = parameters.iou_threshold, max(parameters.iou_threshold, parameters.iou_threshold_max)
    thresholds = [first + STEP * n for n in range(int((last - first) / STEP + 1e-6) + 1)]
    if truth.categories is None or predicted.categories is None:
        parts = [(list(range(len(predicted.boxes))), list(range(len(actual))))]
    else:
        parts = _by_category(predicted.categories, truth.categories)
    value = sum(_category_ap(predicted, actual, rows, columns, thresholds) for rows, columns in parts) / len(parts)
    penalty = min(1.0, len(actual) / len(predicted.boxes)) if parameters.length_penalty else 1.0
    return min(1.0, value * penalty)


def _by_category(said: tuple[str, ...], known: tuple[str, ...]) -> list[tuple[list[int], list[int]]]:
    """Indices of predictions and truths of each category that either side names."""
    theirs, ours = [same_category(name) for name in said], [same_category(name) for name in known]
    return [
        ([i for i, one in enumerate(theirs) if one == name], [i for i, one in enumerate(ours) if one == name])
        for name in sorted({*theirs, *ours})
    ]


def _category_ap(
    predicted: Boxes, actual: tuple[Box, ...], rows: list[int], columns: list[int], thresholds: list[float]
) -> float:
    if not rows or not columns:
        return 0.0
    boxes, truths = [predicted.boxes[row] for row in rows], [actual[column] for column in columns]
    confidences = [1.0 if predicted.confidences is None else predicted.confidences[row] for row in rows]
    scores, kept = iou_matrix(boxes, truths), first_copies(boxes, truths)
    return sum(average_precision(scores, confidences, kept, least) for least in thresholds) / len(thresholds)


def average_precision(scores: Scores, confidences: list[float], kept: list[int], threshold: float) -> float:
    """COCO's 101-point interpolated AP of one category in one image.

    scores: [predicted, actual] IoU. kept: predictions that may match. Levels of confidence are taken from the highest;
    within one, as many pairs as possible are made among the truths that are left.
    """
    free = np.ones(scores.shape[1], dtype=np.bool_)
    matched, said, may_match = 0, 0, set(kept)
    curve: list[tuple[float, float]] = []
    for level in sorted(set(confidences), reverse=True):
        at_level = [index for index, confidence in enumerate(confidences) if confidence == level]
        taken = _taken(scores, [index for index in at_level if index in may_match], free, threshold - 1e-9)
        free[taken] = False
        matched, said = matched + len(taken), said + len(at_level)
        curve.append((matched / scores.shape[1], matched / said))
    return _area_under(curve)


def _taken(scores: Scores, rows: list[int], free: npt.NDArray[np.bool_], threshold: float) -> list[int]:
    """Truths that the predictions of one level take."""
    if len(rows) == 1:  # one prediction takes its best, as COCO's do
        row = np.where(free, scores[rows[0]], -1.0)
        best = int(row.argmax())
        return [best] if row[best] >= threshold else []
    return [match.actual for match in most_matches(np.where(free, scores[rows], 0.0), threshold)]


def _area_under(curve: list[tuple[float, float]]) -> float:
    """Mean of the best precision at or beyond each of 101 recalls, for (recall, precision) of rising recall."""
    best, total, covered_beyond = 0.0, 0.0, 0
    for place in range(len(curve) - 1, -1, -1):
        recall, precision = curve[place]
        if place == len(curve) - 1:
            covered_beyond = int(recall * RECALLS + 1e-9) + 1
        best = max(best, precision)
        before = int(curve[place - 1][0] * RECALLS + 1e-9) + 1 if place else 0
        total += best * (covered_beyond - before)
        covered_beyond = before
    return total / (RECALLS + 1)


MEAN_AVERAGE_PRECISION = Entry(
    name="mean_average_precision",
    formula="mean over categories and IoU thresholds of the 101-point AP, times min(1, n_gt / n_pred). Confidences "
    "come from text answers (1 where none is given); a category that is not labelled has AP 0. Nothing there: 1 for "
    "silence, else max(0, 0.5 - 0.2 (n_pred - 1)).",
    source="COCO; VLM-R1's odLength, whose penalty ended the flood of boxes that plain mAP paid for",
    beware="without length_penalty extra boxes of low confidence are free",
    skills=(Skill.DETECT, Skill.QUERY),
    labels=(Label.BOXES,),
    parameters=PrecisionParameters,
    grade=grade,
)
