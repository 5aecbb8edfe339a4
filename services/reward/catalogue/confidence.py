"""Whether stated confidences can be believed: a proper score that pays neither silence nor hedged junk.

A box that hits earns 1 - (1 - c)^2, one that misses costs c^2; gains are divided by max(n_pred, n_gt), costs by n_gt.
For a box that is right with probability p the expectation 2 p c - c^2 is largest at c = p, so honesty is best (where
more boxes are said than there are, a little less than p is); a box said with confidence 0 earns nothing and thins the
gains. One denominator for both would let junk at confidence 0 thin the costs. (Visual-RFT pays 1 - c for every miss:
junk at 0 is income.)
"""

from pydantic import Field

from moontune.evaluation.matching import most_matches
from moontune.values.reward import RewardSample
from moontune.values.skill import Skill
from services.reward.catalogue.entry import Entry, Label
from services.reward.catalogue.objects import box_scores, first_copies
from services.reward.catalogue.parameters import ObjectParameters
from services.reward.reading.items import predicted_boxes


class CalibrationParameters(ObjectParameters):
    """When a box hits."""

    iou_threshold: float = Field(0.5, ge=0.05, le=1.0, description="smallest IoU of a hit")


def grade(sample: RewardSample, parameters: CalibrationParameters) -> float:
    """Gains over the larger count, less costs over the count labelled."""
    predicted, truth = predicted_boxes(sample, parameters.coordinates), sample.ground_truth
    actual, confidences = truth.boxes or (), predicted.confidences or ()
    if not predicted.boxes:
        return 0.0 if actual else 1.0
    kept = sorted(first_copies(predicted.keys(truth), actual), key=lambda row: -confidences[row])
    scores = box_scores(predicted, truth)[kept]
    hits = {kept[match.predicted] for match in most_matches(scores, parameters.iou_threshold - 1e-9)}
    gained = sum(1.0 - (1.0 - confidences[row]) ** 2 for row in hits)
    lost = sum(c * c for row, c in enumerate(confidences) if row not in hits)
    return max(-1.0, gained / max(len(confidences), len(actual)) - lost / max(1, len(actual)))


CONFIDENCE_CALIBRATION = Entry(
    name="confidence_calibration",
    formula="sum over hits of 1 - (1 - c)^2 divided by max(n_pred, n_gt), less the sum over misses of c^2 divided by "
    "max(1, n_gt), at least -1; c is the confidence written with the box. Nothing there: 1 for silence.",
    source="Brier 1950 as a per-box score; Visual-RFT's confidence reward, which pays misses",
    beware="it asks for text answers with confidences; a box without one is said with confidence 1",
    skills=(Skill.QUERY,),
    labels=(Label.BOXES,),
    parameters=CalibrationParameters,
    grade=grade,
    minimum=-1.0,
)
