"""Logged numbers."""

import re
from datetime import UTC, datetime

from moontune.api.trainer.v1 import metric_pb2
from moontune.errors import InvalidField
from moontune.values.finetune import MetricPoint
from moontune.wire.checks import at_least, encodes, finite
from moontune.wire.moments import timestamp_from_proto, timestamp_to_proto

_NAME = re.compile(r"[A-Za-z0-9_/-]{1,128}")


@encodes("point")
def metric_point_to_proto(point: MetricPoint) -> metric_pb2.MetricPoint:
    """The message."""
    return metric_pb2.MetricPoint(
        step=point.step, name=point.name, value=point.value, logged_at=timestamp_to_proto(point.logged_at)
    )


def metric_point_from_proto(message: metric_pb2.MetricPoint, field: str = "point") -> MetricPoint:
    """The value; an unset time is now."""
    if not _NAME.fullmatch(message.name):
        raise InvalidField.of(f"{field}.name", message.name, "1 to 128 letters, digits, '_', '/' and '-'")
    logged_at = datetime.now(UTC)
    if message.HasField("logged_at"):
        logged_at = timestamp_from_proto(message.logged_at, f"{field}.logged_at")
    step = at_least(message.step, 0, f"{field}.step")
    return MetricPoint(step, message.name, finite(message.value, f"{field}.value"), logged_at)
