"""Errors of one item in a stream that goes on; the same tree as a failed call's."""

from moontune.api.common.v1 import error_pb2
from moontune.errors import FieldViolation, MoontuneError, error_class
from moontune.wire.checks import encodes
from moontune.wire.moments import duration_from_proto, duration_to_proto


@encodes("error")
def item_error_to_proto(error: MoontuneError) -> error_pb2.ItemError:
    """The message."""
    message = error_pb2.ItemError(
        code=error.code,
        reason=error.reason,
        message=error.message,
        metadata=error.metadata,
        violations=[
            error_pb2.FieldViolation(field=violation.field, description=violation.description)
            for violation in error.violations
        ],
    )
    if error.retry_after_s is not None:
        message.retry_after.CopyFrom(duration_to_proto(error.retry_after_s))
    return message


def item_error_from_proto(message: error_pb2.ItemError, field: str = "error") -> MoontuneError:
    """The error, of the class that was raised."""
    retry_after_s = None
    if message.HasField("retry_after"):
        retry_after_s = duration_from_proto(message.retry_after, f"{field}.retry_after")
    return error_class(message.reason, message.code)(
        message.message,
        metadata=dict(message.metadata),
        violations=[FieldViolation(violation.field, violation.description) for violation in message.violations],
        retry_after_s=retry_after_s,
    )
