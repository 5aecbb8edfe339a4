"""The metrics by name: what a job's report, the demo and the console show.

To add one: write its per-image function here (or in a file of its own noun) and list it in `METRICS`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from moontune.errors import InvalidField
from moontune.evaluation.exact_match import is_exact_match
from moontune.evaluation.f1 import detect_counts, point_in_box_counts, point_in_mask_counts, point_near_counts
from moontune.evaluation.tally import Tally, pooled
from moontune.values.ground_truth import GroundTruth
from moontune.values.output import CaptionOutput, DetectOutput, Output, PointOutput, QueryOutput
from moontune.values.skill import Skill


@dataclass(frozen=True, slots=True)
class Metric:
    """A named pooled metric in 0..1, higher is better. tally: one image's share; raises InvalidField on wrong types."""

    name: str
    description: str
    tally: Callable[[Output, GroundTruth], Tally]


def _detect(threshold: float) -> Callable[[Output, GroundTruth], Tally]:
    def tally(output: Output, truth: GroundTruth) -> Tally:
        if not isinstance(output, DetectOutput) or truth.boxes is None:
            raise _wrong(output, truth, "a detect output and ground-truth boxes")
        return detect_counts(output.objects, truth.boxes, threshold).tally

    return tally


def _in_box(output: Output, truth: GroundTruth) -> Tally:
    if not isinstance(output, PointOutput) or truth.boxes is None:
        raise _wrong(output, truth, "a point output and ground-truth boxes")
    return point_in_box_counts(output.points, truth.boxes).tally


def _in_mask(output: Output, truth: GroundTruth) -> Tally:
    if not isinstance(output, PointOutput) or truth.masks is None:
        raise _wrong(output, truth, "a point output and ground-truth masks")
    return point_in_mask_counts(output.points, truth.masks).tally


def _near(output: Output, truth: GroundTruth) -> Tally:
    if not isinstance(output, PointOutput) or truth.points is None:
        raise _wrong(output, truth, "a point output and ground-truth points")
    return point_near_counts(output.points, truth.points).tally


def _exact(output: Output, truth: GroundTruth) -> Tally:
    if not isinstance(output, QueryOutput | CaptionOutput) or truth.answers is None:
        raise _wrong(output, truth, "a text output and ground-truth answers")
    text = output.answer if isinstance(output, QueryOutput) else output.caption
    return Tally(float(is_exact_match(text, truth.answers)), 1.0)


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("f1_iou50", "Micro F1 of boxes matched one to one at IoU 0.5 or more", _detect(0.5)),
        Metric("f1_iou75", "Micro F1 of boxes matched one to one at IoU 0.75 or more", _detect(0.75)),
        Metric("f1_in_box", "Micro F1 of points, each inside a ground-truth box of its own", _in_box),
        Metric("f1_in_mask", "Micro F1 of points, each inside a ground-truth mask of its own", _in_mask),
        Metric("f1_near", "Micro F1 of points, each within 0.05 of a ground-truth point of its own", _near),
        Metric("exact_match", "Share of answers that equal a reference after normalisation", _exact),
    )
}


def metric_named(name: str, field: str = "metric") -> Metric:
    """The metric, or InvalidField that lists the names."""
    if name not in METRICS:
        raise InvalidField.of(field, name, ", ".join(METRICS))
    return METRICS[name]


def default_metric(skill: Skill, truth: GroundTruth) -> Metric:
    """What a skill is judged by when nobody says: f1_iou50, f1_in_box, f1_in_mask or f1_near, exact_match.

    Raises InvalidField for labels that no metric reads: a text answer that writes boxes, masks or poses.
    """
    point = {"boxes": "f1_in_box", "masks": "f1_in_mask", "points": "f1_near"}
    names = {Skill.DETECT: {"boxes": "f1_iou50"}, Skill.POINT: point}.get(skill, {"answers": "exact_match"})
    label = next(iter(truth.labels), next(reversed(names)))
    if label not in names:
        raise InvalidField.of("ground_truth", label, f"{' or '.join(names)}: what held-out {skill} is judged by")
    return METRICS[names[label]]


def evaluate(metric: Metric, outputs: Sequence[Output], truths: Sequence[GroundTruth]) -> tuple[float, list[Tally]]:
    """The pooled value over images, and each image's tally for the bootstrap; both sequences in one order."""
    if len(outputs) != len(truths):
        raise InvalidField.of("outputs", f"{len(outputs)} outputs", f"one for each of {len(truths)} ground truths")
    tallies = [metric.tally(output, truth) for output, truth in zip(outputs, truths, strict=True)]
    return pooled(tallies), tallies


def _wrong(output: Output, truth: GroundTruth, allowed: str) -> InvalidField:
    return InvalidField.of("output", f"{type(output).__name__} against {list(truth.labels)}", allowed)
