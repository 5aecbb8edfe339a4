"""Points, boxes and the places that a question refers to."""

from moontune.api.common.v1 import geometry_pb2
from moontune.values.geometry import Box, Point
from moontune.values.request import SpatialRef
from moontune.wire.checks import required


def point_to_proto(point: Point) -> geometry_pb2.Point:
    """The message."""
    return geometry_pb2.Point(x=point.x, y=point.y)


def point_from_proto(message: geometry_pb2.Point, field: str = "point") -> Point:
    """The value, its coordinates in 0..1."""
    point = Point(message.x, message.y)
    point.validate(field)
    return point


def box_to_proto(box: Box) -> geometry_pb2.Box:
    """The message."""
    return geometry_pb2.Box(x_min=box.x_min, y_min=box.y_min, x_max=box.x_max, y_max=box.y_max)


def box_from_proto(message: geometry_pb2.Box, field: str = "box") -> Box:
    """The value, its corners in 0..1 and in order."""
    box = Box(message.x_min, message.y_min, message.x_max, message.y_max)
    box.validate(field)
    return box


def spatial_ref_to_proto(ref: SpatialRef) -> geometry_pb2.SpatialRef:
    """The message."""
    if isinstance(ref, Point):
        return geometry_pb2.SpatialRef(point=point_to_proto(ref))
    return geometry_pb2.SpatialRef(box=box_to_proto(ref))


def spatial_ref_from_proto(message: geometry_pb2.SpatialRef, field: str = "spatial_ref") -> SpatialRef:
    """The value."""
    place = message.WhichOneof("place")
    required(place is not None, field, "point or box")
    if place == "point":
        return point_from_proto(message.point, f"{field}.point")
    return box_from_proto(message.box, f"{field}.box")
