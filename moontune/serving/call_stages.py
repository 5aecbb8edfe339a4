"""What the chassis does around each rpc, outermost first: log line, metrics, error mapping, admission, authentication.

Each stage is an async context manager over the `RpcCall`. Errors become a status in `error_mapping` and nowhere else.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import grpc
import structlog
from grpc_status import rpc_status

from moontune.auth.audit import AuditEntry, AuditLog
from moontune.auth.authenticator import Authenticator
from moontune.auth.context import current_principal, set_principal
from moontune.auth.limits import KeyLimiter
from moontune.auth.scopes import PUBLIC_SERVICES, require, required_scope
from moontune.errors import (
    Cancelled,
    Code,
    DeadlineExceeded,
    Draining,
    Internal,
    MoontuneError,
    NotImplementedYet,
    Unavailable,
)
from moontune.serving.call import RpcCall
from moontune.telemetry import names
from moontune.telemetry.logs import get_logger
from moontune.telemetry.metrics import ServiceMetrics
from moontune.values.principal import Scope
from moontune.wire.status import to_status

Stage = Callable[[RpcCall], AbstractAsyncContextManager[None]]

GENERATED_REFUSAL = "Method not implemented!"
"""What a generated servicer's own method raises where no service overrides it."""

log = get_logger("moontune.rpc")


class MappedError(Exception):
    """An error turned into a status; the interceptor hands it to gRPC."""

    def __init__(self, status: grpc.Status) -> None:
        super().__init__(status.details)
        self.status = status


@asynccontextmanager
async def log_line(call: RpcCall) -> AsyncGenerator[None, None]:
    """Bind the request id to every line of this task and write one line when the rpc ends."""
    structlog.contextvars.bind_contextvars(request_id=call.request_id)
    try:
        yield
    finally:
        quiet = call.service in PUBLIC_SERVICES
        facts = {"rpc": call.path, "code": call.code, "seconds": round(time.monotonic() - call.started, 6)}
        if call.detail:
            facts["detail"] = call.detail
        (log.debug if quiet else log.info)("rpc", peer=call.peer, **facts)


def metrics(instruments: ServiceMetrics) -> Stage:
    """Count and time rpcs under go-grpc-prometheus's names."""

    @asynccontextmanager
    async def stage(call: RpcCall) -> AsyncGenerator[None, None]:
        labels = {"grpc_type": str(call.kind), "grpc_service": call.service, "grpc_method": call.method}
        instruments.counter(names.GRPC_STARTED, **labels).inc()
        in_flight = instruments.gauge(names.IN_FLIGHT)
        in_flight.inc()
        try:
            yield
        finally:
            in_flight.dec()
            seconds = time.monotonic() - call.started
            instruments.counter(names.GRPC_HANDLED, **labels, grpc_code=_prometheus_code(call.code)).inc()
            instruments.counter(names.GRPC_RECEIVED, **labels).inc(call.received)
            instruments.counter(names.GRPC_SENT, **labels).inc(call.sent)
            instruments.histogram(names.GRPC_SECONDS, **labels).observe(seconds)

    return stage


@asynccontextmanager
async def error_mapping(call: RpcCall) -> AsyncGenerator[None, None]:
    """The one place where an exception becomes a status.

    An error of our tree keeps its code, message and details. A cancelled task is the caller's leaving or its
    deadline: recorded, and left to gRPC; the cancellation of something that it awaits is Unavailable. Anything
    else is INTERNAL with an opaque id; its trace goes to the log only.
    """
    try:
        yield
    except asyncio.CancelledError as cancellation:
        task = asyncio.current_task()
        if task is not None and not task.cancelling():  # gRPC would answer nothing at all, and the caller wait for ever
            stopped = Unavailable("work that this call waited for was cancelled; call again")
            raise _mapped(call, stopped) from cancellation
        passed = call.deadline is not None and time.monotonic() >= call.deadline - 0.001
        call.code = Code.DEADLINE_EXCEEDED if passed else Code.CANCELLED
        raise
    except grpc.aio.AbortError:
        raise  # the handler spoke to gRPC itself (health and reflection do)
    except MoontuneError as error:
        raise _mapped(call, error) from error
    except NotImplementedError as error:
        if str(error) != GENERATED_REFUSAL:
            raise _mapped(call, _unexpected(call, error)) from error
        refusal = NotImplementedYet(f"{call.path} is in the contract; this build does not answer it")
        raise _mapped(call, refusal) from error
    except Exception as error:
        raise _mapped(call, _unexpected(call, error)) from error


def _unexpected(call: RpcCall, error: Exception) -> Internal:
    error_id = uuid.uuid4().hex
    log.error("unexpected error", rpc=call.path, error_id=error_id, exc_info=error)
    return Internal(f"an internal error happened; its id in the service's log is {error_id}")


def _mapped(call: RpcCall, error: MoontuneError) -> MappedError:
    if isinstance(error, Cancelled) and call.deadline is not None and time.monotonic() >= call.deadline:
        error = DeadlineExceeded(error.message)
    call.code, call.detail = error.code, error.message
    return MappedError(rpc_status.to_status(to_status(error)))


class Admission:
    """Whether new rpcs are taken; counts those under way so that a drain can wait for them."""

    def __init__(self) -> None:
        self._open = True
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def close(self) -> None:
        """Refuse new rpcs with Draining from now on."""
        self._open = False

    async def wait_idle(self) -> None:
        """Wait until no rpc is under way."""
        await self._idle.wait()

    @asynccontextmanager
    async def stage(self, call: RpcCall) -> AsyncGenerator[None, None]:
        """Let an rpc in, or raise Draining; health is always answered."""
        if call.service in PUBLIC_SERVICES:
            yield
            return
        if not self._open:
            raise Draining(
                "this service is stopping; call again, another or the next one will answer", retry_after_s=1.0
            )
        self._under_way += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()


def audited(audit: AuditLog) -> Stage:
    """Record what a key's holder changes, and who is refused; calls of our own services are recorded at their edge."""

    @asynccontextmanager
    async def stage(call: RpcCall) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            caller = current_principal()  # bound by `authentication`, further in
            refused = call.code in (Code.UNAUTHENTICATED, Code.PERMISSION_DENIED, Code.RESOURCE_EXHAUSTED)
            changes = required_scope(call.path) is not Scope.READ
            if call.service not in PUBLIC_SERVICES and not caller.internal and (refused or changes):
                organisation = caller.organisation if caller.key_id else ""
                audit.note(AuditEntry(organisation, caller.key_id, call.path, call.code, call.peer))

    return stage


def authentication(authenticator: Authenticator, limiter: KeyLimiter | None = None) -> Stage:
    """Bind the caller's principal to this task, check that it holds the rpc's scope, and that its limits allow it."""
    limiter = limiter or KeyLimiter()

    @asynccontextmanager
    async def stage(call: RpcCall) -> AsyncGenerator[None, None]:
        if call.service not in PUBLIC_SERVICES:
            principal = await authenticator.authenticate(call.metadata, call.peer)
            require(principal, call.path)
            set_principal(principal)
            structlog.contextvars.bind_contextvars(organisation=principal.organisation)
            async with limiter.admitted(principal):
                yield
            return
        yield

    return stage


def _prometheus_code(code: str) -> str:
    """go-grpc-prometheus writes codes as Go does: NOT_FOUND is NotFound, OK is OK."""
    return code if code == "OK" else "".join(part.capitalize() for part in code.split("_"))
