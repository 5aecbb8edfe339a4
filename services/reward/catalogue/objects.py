"""What the set rewards share: the rule for copies, for categories, for absent targets, and the score of a match."""

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from moontune.evaluation.matching import Scores, best_total, iou_matrix
from moontune.values.ground_truth import GroundTruth
from moontune.values.reward import RewardSample
from services.reward.reading.items import Boxes

ABSENT = "Nothing there: 1 for silence, else max(0, 0.5 - 0.2 (n_pred - 1))."


def absent_target(predicted_count: int) -> float:
    """Score where nothing is there: 1 for silence, else max(0, 0.5 - 0.2 (n - 1)): 0.5, 0.3, 0.1, 0."""
    return 1.0 if predicted_count == 0 else max(0.0, 0.5 - 0.2 * (predicted_count - 1))


def box_scores(predicted: Boxes, truth: GroundTruth) -> Scores:
    """IoU of every pair, [predicted, actual]; 0 where the categories differ or the truth does not know one."""
    scores = iou_matrix(predicted.boxes, truth.boxes or ())
    if truth.categories is None or predicted.categories is None:
        return scores
    theirs = np.array([same_category(name) for name in predicted.categories], dtype=object)
    ours = np.array([same_category(name) for name in truth.categories], dtype=object)
    return scores * (theirs[:, None] == ours[None, :])


def same_category(name: str) -> str:
    """What two writings of one category have in common: case and spaces do not count."""
    return " ".join(name.casefold().split())


def first_copies(predicted: Sequence[Hashable], actual: Sequence[Hashable]) -> list[int]:
    """Indices of the predictions that may match: copies of one only as often as the labels repeat one object.

    Without this rule saying one box twice pays wherever the box overlaps two objects.
    """
    if len(set(predicted)) == len(predicted):
        return list(range(len(predicted)))
    allowed = max(Counter(actual).values(), default=1)
    seen: Counter[Hashable] = Counter()
    kept: list[int] = []
    for index, one in enumerate(predicted):
        seen[one] += 1
        if seen[one] <= allowed:
            kept.append(index)
    return kept


def matched_total(scores: Scores, predicted: Sequence[Hashable], actual: Sequence[Hashable]) -> float:
    """Largest total score of one-to-one pairs; copies do not each earn (`first_copies`) but still count as said."""
    kept = first_copies(predicted, actual)
    return best_total(scores if len(kept) == len(predicted) else scores[kept])


def over_larger_count(scores: Scores, predicted: Sequence[Hashable], actual: Sequence[Hashable]) -> float:
    """matched_total / max(n_pred, n_gt), or the rule for absent targets."""
    if not actual:
        return absent_target(len(predicted))
    if not predicted:
        return 0.0
    return matched_total(scores, predicted, actual) / max(len(predicted), len(actual))


def true_count(sample: RewardSample) -> int:
    """How many objects are labelled, whatever their kind."""
    (labels,) = sample.ground_truth.labels.values()
    return len(labels)
