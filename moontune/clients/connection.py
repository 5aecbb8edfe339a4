"""One client's channel to one service, and the three ways to call over it: each with deadline, credentials, retry.

The channel is made on the first call, in the event loop of that call, and belongs to it.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import grpc
import structlog

from moontune.clients.credentials import Credentials
from moontune.clients.errors import from_rpc_error
from moontune.clients.retry import RetryPolicy
from moontune.errors import DeadlineExceeded
from moontune.telemetry.deadline import current_deadline
from moontune.wire.channel import MESSAGE_OPTIONS, REQUEST_ID_HEADER

Request = TypeVar("Request")
Response = TypeVar("Response")
T = TypeVar("T")

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    *MESSAGE_OPTIONS,
    ("grpc.max_metadata_size", 64 * 1024),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.enable_retries", 0),  # `RetryPolicy` does it, with the service's RetryInfo
)
FINISHING_MARGIN_S = 0.05
"""A call made while answering another ends this much earlier, so that its error still reaches the caller."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a service is and how to call it. address: host:port. deadline_s: of a call that sets none itself."""

    address: str
    credentials: Credentials = field(default_factory=Credentials)
    deadline_s: float = 60.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)


class Connection:
    """Calls over one channel. `method` picks an rpc from a stub, made here from the channel."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._channel: grpc.aio.Channel | None = None

    @property
    def channel(self) -> grpc.aio.Channel:
        """The channel; call it in the event loop that uses it."""
        if self._channel is None:
            address, tls = self._target.address, self._target.credentials.tls
            options: list[tuple[str, Any]] = list(CHANNEL_OPTIONS)
            if tls is None:
                self._channel = grpc.aio.insecure_channel(address, options=options)
            else:
                if tls.server_name:
                    options.append(("grpc.ssl_target_name_override", tls.server_name))
                self._channel = grpc.aio.secure_channel(address, tls.channel_credentials(), options=options)
        return self._channel

    async def close(self) -> None:
        """Close the channel; calls under way are cancelled."""
        if self._channel is not None:
            channel, self._channel = self._channel, None
            await channel.close()

    async def unary(
        self,
        method: "grpc.aio.UnaryUnaryMultiCallable[Request, Response]",
        request: Request,
        deadline_s: float | None = None,
    ) -> Response:
        """One message each way, retried."""
        deadline = self._deadline(deadline_s)

        async def attempt() -> Response:
            return await method(request, timeout=_left_s(deadline), metadata=self._metadata())

        return await self._target.retry.run(_mapped(attempt), deadline, _name(method))

    async def upload(
        self,
        method: "grpc.aio.StreamUnaryMultiCallable[Request, Response]",
        requests: Callable[[], AsyncIterator[Request]],
        deadline_s: float | None = None,
    ) -> Response:
        """A stream of messages there, one back; retried as a whole, so `requests` makes the stream anew each time."""
        deadline = self._deadline(deadline_s)

        async def attempt() -> Response:
            raised: list[Exception] = []
            try:
                sent = watched(requests(), raised)
                return await method(sent, timeout=_left_s(deadline), metadata=self._metadata())
            except asyncio.CancelledError:
                # grpc cancels a call whose requests cannot be made; the caller must hear why.
                if raised:
                    raise raised[0] from None
                raise

        return await self._target.retry.run(_mapped(attempt), deadline, _name(method))

    async def stream(
        self,
        open_call: Callable[[float, grpc.aio.Metadata], AsyncIterable[Response]],
        deadline_s: float | None = None,
        *,
        attempts: int | None = None,
    ) -> AsyncGenerator[Response, None]:
        """Messages back as they come; retried only until the first one has come.

        Args:
            open_call: `lambda timeout_s, metadata: method(request, timeout=timeout_s, metadata=metadata)`.
            deadline_s: of the whole stream.
            attempts: instead of the policy's; 1 where the caller's own messages cannot be sent twice.
        """
        deadline = self._deadline(deadline_s)

        async def begin() -> tuple[AsyncIterable[Response], AsyncIterator[Response], list[Response]]:
            call = open_call(_left_s(deadline), self._metadata())
            messages = aiter(call)
            try:
                return call, messages, [await anext(messages)]
            except StopAsyncIteration:
                return call, messages, []
            except BaseException:
                _cancel(call)
                raise

        policy = self._target.retry
        if attempts is not None:
            policy = replace(policy, attempts=attempts)
        call, messages, head = await policy.run(_mapped(begin), deadline, "stream")
        try:
            for message in head:
                yield message
            async for message in messages:
                yield message
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None
        finally:
            _cancel(call)

    def _deadline(self, deadline_s: float | None) -> float:
        deadline = time.monotonic() + (self._target.deadline_s if deadline_s is None else deadline_s)
        inherited = current_deadline()
        return deadline if inherited is None else min(deadline, inherited - FINISHING_MARGIN_S)

    def _metadata(self) -> grpc.aio.Metadata:
        entries = self._target.credentials.metadata()
        request_id = structlog.contextvars.get_contextvars().get("request_id")
        if isinstance(request_id, str) and request_id:
            entries[REQUEST_ID_HEADER] = request_id
        return grpc.aio.Metadata(*entries.items())


async def watched(requests: AsyncIterator[Request], raised: list[Exception]) -> AsyncIterator[Request]:
    """The same messages; an error in making them is kept in `raised`, since grpc only cancels the call."""
    try:
        async for request in requests:
            yield request
    except Exception as error:
        raised.append(error)
        raise


def _mapped(attempt: Callable[[], Any]) -> Callable[[], Any]:
    async def mapped() -> Any:
        try:
            return await attempt()
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None

    return mapped


def _left_s(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0.0:
        raise DeadlineExceeded("the deadline passed before the call was made")
    return left


def _cancel(call: object) -> None:
    if callable(cancel := getattr(call, "cancel", None)):
        cancel()


def _name(method: object) -> str:
    raw = getattr(method, "_method", b"")
    return raw.decode() if isinstance(raw, bytes) else str(raw)
