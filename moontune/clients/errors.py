"""A failed rpc as the error that the service raised."""

from typing import cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from moontune.errors import MoontuneError, Unavailable
from moontune.wire.status import from_code, from_status

_DETAILS = "grpc-status-details-bin"


def from_rpc_error(error: grpc.RpcError) -> MoontuneError:
    """The same class, message, metadata, violations and retry time that the service raised.

    A status without details (gRPC's own, or a proxy's) becomes the class of its code; a service that cannot be
    reached is `Unavailable`.
    """
    call = cast("grpc.Call", error)
    trailing = call.trailing_metadata()
    data = next((value for name, value in trailing or () if name == _DETAILS and isinstance(value, bytes)), None)
    if data is not None:
        try:
            return from_status(status_pb2.Status.FromString(data))
        except (DecodeError, ValueError):
            pass  # a proxy mangled it; the code still tells
    code, details = call.code().name, call.details() or ""
    if code == "UNAVAILABLE":
        return Unavailable(f"the service cannot be reached: {details}")
    return from_code(code, details or code)
