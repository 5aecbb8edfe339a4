"""Times: aware datetimes in UTC and seconds, against Timestamp and Duration. Both keep microseconds."""

from datetime import UTC, datetime

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from moontune.errors import InvalidField


def timestamp_to_proto(moment: datetime) -> Timestamp:
    """The timestamp of an aware datetime; a naive one is a bug of the caller."""
    assert moment.tzinfo is not None, "datetimes on the wire are aware"
    message = Timestamp()
    message.FromDatetime(moment)
    return message


def timestamp_from_proto(message: Timestamp, field: str) -> datetime:
    """The datetime in UTC."""
    try:
        return message.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidField.of(field, f"{message.seconds} s", "a time in the years 1 to 9999") from error


def duration_to_proto(seconds: float) -> Duration:
    """The duration of a number of seconds, to the nanosecond."""
    message = Duration()
    message.FromNanoseconds(round(seconds * 1e9))
    return message


def duration_from_proto(message: Duration, field: str) -> float:
    """Seconds, 0 or more."""
    seconds = message.ToNanoseconds() / 1e9
    if seconds < 0:
        raise InvalidField.of(field, seconds, "a time of 0 or more")
    return seconds
