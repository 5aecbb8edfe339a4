"""What the set rewards share: the sample's objects, the rule for copies, and the rule for absent targets."""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from moontune.errors import InvalidField
from moontune.evaluation.matching import Scores, optimal_matches
from moontune.values.geometry import Box, Point
from moontune.values.output import DetectOutput, PointOutput
from moontune.values.reward import RewardSample

T = TypeVar("T", bound=Hashable)


def predicted_boxes(sample: RewardSample) -> tuple[Box, ...]:
    """The output's boxes; InvalidField when the output is of another skill."""
    if not isinstance(sample.output, DetectOutput):
        raise InvalidField.of("output", type(sample.output).__name__, "a detect output")
    return sample.output.objects


def predicted_points(sample: RewardSample) -> tuple[Point, ...]:
    """The output's points; InvalidField when the output is of another skill."""
    if not isinstance(sample.output, PointOutput):
        raise InvalidField.of("output", type(sample.output).__name__, "a point output")
    return sample.output.points


def true_boxes(sample: RewardSample) -> tuple[Box, ...]:
    """The labelled boxes (checked to be there before a grade)."""
    return sample.ground_truth.boxes or ()


def true_points(sample: RewardSample) -> tuple[Point, ...]:
    """The labelled points (checked to be there before a grade)."""
    return sample.ground_truth.points or ()


def matched_total(predicted: Sequence[T], actual: Sequence[Hashable], score: Callable[[Sequence[T]], Scores]) -> float:
    """Largest total score of one-to-one pairs, where copies of one prediction do not each earn.

    Without the rule for copies, saying one box twice pays wherever the box overlaps two objects. Copies may match as
    often as the labels themselves repeat one object. They still count as predictions in the caller's denominator.
    """
    allowed = max(Counter(actual).values(), default=1)
    seen: Counter[T] = Counter()
    kept: list[T] = []
    for one in predicted:
        if seen[one] < allowed:
            seen[one] += 1
            kept.append(one)
    return sum(match.score for match in optimal_matches(score(kept)))


def absent_target(predicted_count: int) -> float:
    """Score where nothing is there: 1 for silence, else max(0, 0.5 - 0.2 (n - 1)): 0.5, 0.3, 0.1, 0."""
    return 1.0 if predicted_count == 0 else max(0.0, 0.5 - 0.2 * (predicted_count - 1))
