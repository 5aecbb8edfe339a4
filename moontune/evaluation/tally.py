"""What one image contributes to a pooled metric."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tally:
    """A share of a ratio: the metric over many images is sum(numerator) / sum(denominator).

    Micro F1 is 2 tp / (n_pred + n_gt) and accuracy is hits / questions, so one form serves both.
    """

    numerator: float
    denominator: float


def pooled(tallies: Iterable[Tally]) -> float:
    """The ratio of the sums; 1.0 when there was nothing to find and nothing was said (both sums 0)."""
    numerator = denominator = 0.0
    for tally in tallies:
        numerator += tally.numerator
        denominator += tally.denominator
    return numerator / denominator if denominator else 1.0
