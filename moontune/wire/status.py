"""The one mapping between our error tree and `google.rpc.Status` with its details, in both directions.

Services attach the status to a failed rpc (`grpc-status-details-bin`), clients rebuild the same class from it.
Texts are cut so that a status fits the 8 KiB of metadata that gRPC clients accept by default.
"""

from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2

from moontune.errors import DOMAIN, Code, FieldViolation, InvalidField, MoontuneError, error_class

MAX_METADATA_BYTES = 7 * 1024
"""Of the 8 KiB, as encoded on the wire; the rest is for gRPC's own trailers."""
MAX_MESSAGE_CHARACTERS = 1024
MAX_VIOLATIONS = 8
MAX_VIOLATION_CHARACTERS = 240
MAX_ENTRIES = 16
MAX_NAME_CHARACTERS = 64
MAX_ENTRY_CHARACTERS = 256


def to_status(error: MoontuneError) -> status_pb2.Status:
    """The status of an error: code, message, ErrorInfo, and BadRequest and RetryInfo where it has them.

    What does not fit is cut: texts and lists to the limits above, then to a half, a quarter, an eighth of them.
    """
    status = _status(error, 1)
    for divisor in (2, 4, 8):
        if _wire_bytes(status) <= MAX_METADATA_BYTES:
            break
        status = _status(error, divisor)
    return status


def _status(error: MoontuneError, divisor: int) -> status_pb2.Status:
    status = status_pb2.Status(
        code=code_pb2.Code.Value(error.code), message=_cut(error.message, MAX_MESSAGE_CHARACTERS // divisor)
    )
    entries = list(error.metadata.items())[: MAX_ENTRIES // divisor]
    metadata = {
        _cut(name, MAX_NAME_CHARACTERS): _cut(value, MAX_ENTRY_CHARACTERS // divisor) for name, value in entries
    }
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)
    status.details.add().Pack(info)
    if error.violations:
        bad = error_details_pb2.BadRequest()
        for violation in error.violations[: MAX_VIOLATIONS // divisor]:
            description = _cut(violation.description, MAX_VIOLATION_CHARACTERS // divisor)
            bad.field_violations.add(field=_cut(violation.field, MAX_NAME_CHARACTERS * 2), description=description)
        status.details.add().Pack(bad)
    if error.retry_after_s is not None:
        delay = Duration()
        delay.FromNanoseconds(round(error.retry_after_s * 1e9))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def _wire_bytes(status: status_pb2.Status) -> int:
    """Bytes of `grpc-message` (percent-encoded but for printable ASCII) and `grpc-status-details-bin` (base64)."""
    message = sum(1 if 0x20 <= byte <= 0x7E else 3 for byte in status.message.encode())
    return message + status.ByteSize() * 4 // 3


def from_status(status: status_pb2.Status) -> MoontuneError:
    """The error that a service raised; for a status without our ErrorInfo, the class of its code."""
    info = error_details_pb2.ErrorInfo()
    bad = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    retry_after_s: float | None = None
    for detail in status.details:
        if not detail.Unpack(info) and not detail.Unpack(bad) and detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
    kind = error_class(info.reason if info.domain == DOMAIN else "", code_pb2.Code.Name(status.code))
    return kind(
        status.message,
        metadata=dict(info.metadata),
        violations=[FieldViolation(violation.field, violation.description) for violation in bad.field_violations],
        retry_after_s=retry_after_s,
    )


def from_code(code: str, message: str) -> MoontuneError:
    """The error of a bare gRPC status (a proxy's, or gRPC's own): `code` is the name of its code.

    gRPC answers RESOURCE_EXHAUSTED to a message over the size cap; that never gets better by trying again, so it
    becomes InvalidField.
    """
    if code == Code.RESOURCE_EXHAUSTED and "larger than max" in message:
        return InvalidField(message, violations=[FieldViolation("", message)])
    return error_class("", code)(message)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"
