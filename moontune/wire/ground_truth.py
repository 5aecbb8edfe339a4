"""Ground truth: exactly one kind of label. A value without any is a message left away."""

from moontune.api.common.v1 import ground_truth_pb2
from moontune.errors import InvalidField
from moontune.values.geometry import Point
from moontune.values.ground_truth import GroundTruth
from moontune.values.image_size import ImageSize
from moontune.values.mask import Mask, PolygonMask, RleMask, SvgMask
from moontune.values.pose import Pose
from moontune.wire.checks import each, encodes, required
from moontune.wire.geometry import box_from_proto, box_to_proto, point_from_proto, point_to_proto


@encodes("ground_truth")
def ground_truth_to_proto(truth: GroundTruth) -> ground_truth_pb2.GroundTruth:
    """The message; more or less than one kind of label is refused."""
    if len(truth.labels) != 1:
        raise InvalidField.of("ground_truth", list(truth.labels), "exactly one of boxes, points, answers, masks, poses")
    message = ground_truth_pb2.GroundTruth()
    if truth.image_size is not None:
        message.image_size.width, message.image_size.height = truth.image_size.width, truth.image_size.height
    if truth.boxes is not None:
        boxes = [box_to_proto(box) for box in truth.boxes]
        message.boxes.CopyFrom(ground_truth_pb2.BoxLabels(boxes=boxes, categories=truth.categories or ()))
    if truth.points is not None:
        points = [point_to_proto(point) for point in truth.points]
        message.points.CopyFrom(ground_truth_pb2.PointLabels(points=points))
    if truth.answers is not None:
        message.answers.CopyFrom(ground_truth_pb2.AnswerLabels(answers=truth.answers))
    if truth.masks is not None:
        masks = [_mask_to_proto(mask) for mask in truth.masks]
        message.masks.CopyFrom(ground_truth_pb2.MaskLabels(masks=masks))
    if truth.poses is not None:
        message.poses.CopyFrom(ground_truth_pb2.PoseLabels(poses=[_pose_to_proto(pose) for pose in truth.poses]))
    return message


def ground_truth_from_proto(message: ground_truth_pb2.GroundTruth, field: str = "ground_truth") -> GroundTruth:
    """The value; whether the kind fits the skill is for the caller to check (`GroundTruth.validate`)."""
    size = ImageSize(message.image_size.width, message.image_size.height) if message.HasField("image_size") else None
    if size is not None:
        size.validate(f"{field}.image_size")
    match message.WhichOneof("labels"):
        case "boxes":
            boxes = each(f"{field}.boxes", message.boxes.boxes, box_from_proto)
            return GroundTruth(boxes=boxes, categories=tuple(message.boxes.categories) or None, image_size=size)
        case "points":
            return GroundTruth(points=each(f"{field}.points", message.points.points, point_from_proto), image_size=size)
        case "answers":
            return GroundTruth(answers=tuple(message.answers.answers), image_size=size)
        case "masks":
            return GroundTruth(masks=each(f"{field}.masks", message.masks.masks, _mask_from_proto), image_size=size)
        case "poses":
            return GroundTruth(poses=each(f"{field}.poses", message.poses.poses, _pose_from_proto), image_size=size)
        case None:
            raise InvalidField.of(f"{field}.labels", None, "boxes, points, answers, masks or poses")


def _mask_to_proto(mask: Mask) -> ground_truth_pb2.Mask:
    match mask:
        case RleMask():
            rle = ground_truth_pb2.RleMask(height=mask.height, width=mask.width, counts=mask.counts)
            return ground_truth_pb2.Mask(rle=rle)
        case PolygonMask():
            rings = [ground_truth_pb2.Ring(points=[point_to_proto(p) for p in ring]) for ring in mask.rings]
            return ground_truth_pb2.Mask(polygon=ground_truth_pb2.PolygonMask(rings=rings))
        case SvgMask():
            return ground_truth_pb2.Mask(svg_path=mask.path)


def _mask_from_proto(message: ground_truth_pb2.Mask, field: str) -> Mask:
    shape = message.WhichOneof("shape")
    required(shape is not None, f"{field}.shape", "rle, polygon or svg_path")
    mask: Mask = SvgMask(message.svg_path)
    if shape == "rle":
        mask = RleMask(message.rle.height, message.rle.width, tuple(message.rle.counts))
    elif shape == "polygon":
        mask = PolygonMask(each(f"{field}.polygon.rings", message.polygon.rings, _ring_from_proto))
    mask.validate(f"{field}.{shape}")
    return mask


def _ring_from_proto(message: ground_truth_pb2.Ring, field: str) -> tuple[Point, ...]:
    return each(f"{field}.points", message.points, point_from_proto)


def _pose_to_proto(pose: Pose) -> ground_truth_pb2.Pose:
    keypoints = [
        ground_truth_pb2.Keypoint(point=None if keypoint is None else point_to_proto(keypoint))
        for keypoint in pose.keypoints
    ]
    return ground_truth_pb2.Pose(keypoints=keypoints, area=pose.area)


def _pose_from_proto(message: ground_truth_pb2.Pose, field: str) -> Pose:
    pose = Pose(each(f"{field}.keypoints", message.keypoints, _keypoint_from_proto), message.area)
    pose.validate(field)
    return pose


def _keypoint_from_proto(message: ground_truth_pb2.Keypoint, field: str) -> Point | None:
    return point_from_proto(message.point, f"{field}.point") if message.HasField("point") else None
