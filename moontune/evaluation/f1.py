"""Pooled (micro) F1 of sets of boxes or points, by one-to-one matching.

    precision = tp / n_pred,  recall = tp / n_gt,  F1 = 2 tp / (n_pred + n_gt)

with tp, n_pred and n_gt summed over the images first. A duplicate is a false positive. Images without objects count:
a box drawn there is a false positive, silence there changes nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from moontune.evaluation.mask_raster import cover_matrix
from moontune.evaluation.matching import containment_matrix, distance_matrix, iou_matrix, most_matches
from moontune.evaluation.tally import Tally, pooled
from moontune.values.geometry import Box, Point
from moontune.values.mask import Mask


@dataclass(frozen=True, slots=True)
class MatchCounts:
    """One image's counts: pairs matched, objects predicted, objects that are there."""

    matched: int
    predicted: int
    actual: int

    def __add__(self, other: "MatchCounts") -> "MatchCounts":
        return MatchCounts(self.matched + other.matched, self.predicted + other.predicted, self.actual + other.actual)

    @property
    def tally(self) -> Tally:
        """F1's numerator and denominator."""
        return Tally(2.0 * self.matched, float(self.predicted + self.actual))

    @property
    def precision(self) -> float:
        """Share of predictions that are right; 1.0 when there are none."""
        return self.matched / self.predicted if self.predicted else 1.0

    @property
    def recall(self) -> float:
        """Share of objects found; 1.0 when there are none."""
        return self.matched / self.actual if self.actual else 1.0


def detect_counts(predicted: Sequence[Box], actual: Sequence[Box], iou_threshold: float = 0.5) -> MatchCounts:
    """Counts of boxes; a pair matches when its IoU is at least the threshold."""
    matches = most_matches(iou_matrix(predicted, actual), iou_threshold)
    return MatchCounts(len(matches), len(predicted), len(actual))


def point_in_box_counts(predicted: Sequence[Point], actual: Sequence[Box]) -> MatchCounts:
    """Counts of points against boxes; a pair matches when the point is in the box, each box takes one point."""
    matches = most_matches(containment_matrix(predicted, actual), 1.0)
    return MatchCounts(len(matches), len(predicted), len(actual))


def point_in_mask_counts(predicted: Sequence[Point], actual: Sequence[Mask]) -> MatchCounts:
    """Counts of points against masks; a pair matches when the point is in the mask, each mask takes one point."""
    matches = most_matches(cover_matrix(predicted, actual), 1.0)
    return MatchCounts(len(matches), len(predicted), len(actual))


def point_near_counts(predicted: Sequence[Point], actual: Sequence[Point], radius: float = 0.05) -> MatchCounts:
    """Counts of points against points; a pair matches within the radius (0..1 of the image, edge included)."""
    distances = distance_matrix(predicted, actual)
    # Closeness is 1 at the same place and 0.5 at the radius.
    matches = most_matches(1.0 / (1.0 + distances / radius), 0.5)
    return MatchCounts(len(matches), len(predicted), len(actual))


def f1(counts: Iterable[MatchCounts]) -> float:
    """Pooled F1 in 0..1; 1.0 when no image has an object and none was predicted."""
    return pooled(count.tally for count in counts)
