"""Ground truth: exactly one kind of label. A value without any is a message left away."""

from moontune.api.common.v1 import ground_truth_pb2
from moontune.errors import InvalidField
from moontune.values.ground_truth import GroundTruth
from moontune.wire.checks import each, encodes
from moontune.wire.geometry import box_from_proto, box_to_proto, point_from_proto, point_to_proto


@encodes("ground_truth")
def ground_truth_to_proto(truth: GroundTruth) -> ground_truth_pb2.GroundTruth:
    """The message; more or less than one kind of label is refused."""
    every = {"boxes": truth.boxes, "points": truth.points, "answers": truth.answers}
    given = [name for name, labels in every.items() if labels is not None]
    if len(given) != 1:
        raise InvalidField.of("ground_truth", given, "exactly one of boxes, points, answers")
    if truth.boxes is not None:
        boxes = ground_truth_pb2.BoxLabels(boxes=[box_to_proto(box) for box in truth.boxes])
        return ground_truth_pb2.GroundTruth(boxes=boxes)
    if truth.points is not None:
        points = ground_truth_pb2.PointLabels(points=[point_to_proto(point) for point in truth.points])
        return ground_truth_pb2.GroundTruth(points=points)
    return ground_truth_pb2.GroundTruth(answers=ground_truth_pb2.AnswerLabels(answers=truth.answers))


def ground_truth_from_proto(message: ground_truth_pb2.GroundTruth, field: str = "ground_truth") -> GroundTruth:
    """The value; whether the kind fits the skill is for the caller to check (`GroundTruth.validate`)."""
    match message.WhichOneof("labels"):
        case "boxes":
            return GroundTruth(boxes=each(f"{field}.boxes", message.boxes.boxes, box_from_proto))
        case "points":
            return GroundTruth(points=each(f"{field}.points", message.points.points, point_from_proto))
        case "answers":
            return GroundTruth(answers=tuple(message.answers.answers))
        case None:
            raise InvalidField.of(f"{field}.labels", None, "boxes, points or answers")
