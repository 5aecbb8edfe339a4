"""The rpc that the running task answers: its name, request id and deadline, in a context variable."""

import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum


class RpcKind(StrEnum):
    """Values are the `grpc_type` labels of go-grpc-prometheus."""

    UNARY = "unary"
    CLIENT_STREAM = "client_stream"
    SERVER_STREAM = "server_stream"
    BIDI_STREAM = "bidi_stream"


@dataclass(slots=True)
class RpcCall:
    """One rpc under way.

    path: "/package.Service/Method". deadline: on time.monotonic's clock; None without one. code: the name of the
    status it ended with; "OK" until an error is mapped.
    """

    path: str
    kind: RpcKind
    peer: str
    request_id: str
    metadata: dict[str, str]
    deadline: float | None
    code: str = "OK"
    detail: str = ""
    started: float = field(default_factory=time.monotonic)
    received: int = 0
    sent: int = 0

    @property
    def service(self) -> str:
        """Full name of the service."""
        return self.path.rpartition("/")[0].lstrip("/")

    @property
    def method(self) -> str:
        """Name of the method alone."""
        return self.path.rpartition("/")[2]


_current: ContextVar[RpcCall | None] = ContextVar("moontune_rpc_call", default=None)


def current_call() -> RpcCall | None:
    """The rpc that this task answers; None outside of one."""
    return _current.get()


def set_current_call(call: RpcCall) -> None:
    """Bind for the rest of this task; grpc runs each rpc in a task of its own."""
    _current.set(call)
