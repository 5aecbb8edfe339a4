"""The one server interceptor: wraps every handler, unary or streaming, in the chassis's stages."""

import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, TypeAlias, cast

import grpc

from moontune.serving.call import RpcCall, RpcKind, set_current_call
from moontune.serving.call_stages import MappedError, Stage
from moontune.telemetry.deadline import set_deadline
from moontune.wire.channel import REQUEST_ID_HEADER

_SANE_ID = re.compile(r"[\w.:/+=-]{1,128}")

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # in quotes: only the stubs are generic
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Behaviour = Callable[[Any, Context], Any]


class ChassisInterceptor(grpc.aio.ServerInterceptor):
    """Runs the stages, outermost first, around every rpc of every service."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = tuple(stages)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Wrap the handler; None (no such method) goes on to gRPC, which answers UNIMPLEMENTED."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return cast("Handler", handler)
        kind = _kind(handler)
        path = handler_call_details.method
        behaviour: Behaviour = (
            handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        )  # pyright: ignore[reportAssignmentType]
        make = {
            RpcKind.UNARY: grpc.unary_unary_rpc_method_handler,
            RpcKind.SERVER_STREAM: grpc.unary_stream_rpc_method_handler,
            RpcKind.CLIENT_STREAM: grpc.stream_unary_rpc_method_handler,
            RpcKind.BIDI_STREAM: grpc.stream_stream_rpc_method_handler,
        }[kind]
        streams_out = kind in (RpcKind.SERVER_STREAM, RpcKind.BIDI_STREAM)
        wrapped = self._streaming(behaviour, path, kind) if streams_out else self._single(behaviour, path, kind)
        return cast("Any", make)(wrapped, handler.request_deserializer, handler.response_serializer)

    def _single(self, behaviour: Behaviour, path: str, kind: RpcKind) -> Behaviour:
        async def answer(request: Any, context: Context) -> Any:
            call = _begin(path, kind, context)
            try:
                async with AsyncExitStack() as stack:
                    await self._enter(stack, call)
                    response = await behaviour(_counted(call, request), context)
                    call.sent += 1
                    return response
            except MappedError as error:
                await context.abort_with_status(error.status)

        return answer

    def _streaming(self, behaviour: Behaviour, path: str, kind: RpcKind) -> Behaviour:
        # A coroutine that writes, not a generator: a cancelled rpc then unwinds the stages here and now, where a
        # generator would be left suspended at its yield until it is collected.
        async def answer(request: Any, context: Context) -> None:
            call = _begin(path, kind, context)
            try:
                async with AsyncExitStack() as stack:
                    await self._enter(stack, call)
                    result = behaviour(_counted(call, request), context)
                    if not hasattr(result, "__aiter__"):
                        await result  # a handler that writes to the context itself
                        return
                    if hasattr(result, "aclose"):
                        stack.push_async_callback(result.aclose)
                    async for response in result:
                        await context.write(response)
                        call.sent += 1
            except MappedError as error:
                await context.abort_with_status(error.status)

        return answer

    async def _enter(self, stack: AsyncExitStack, call: RpcCall) -> None:
        for stage in self._stages:
            await stack.enter_async_context(stage(call))


def _begin(path: str, kind: RpcKind, context: Context) -> RpcCall:
    metadata = {
        str(name).lower(): value for name, value in context.invocation_metadata() or () if isinstance(value, str)
    }
    given = metadata.get(REQUEST_ID_HEADER, "")
    remaining_s = cast("float | None", context.time_remaining())
    call = RpcCall(
        path=path,
        kind=kind,
        peer=context.peer(),
        request_id=given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex,
        metadata=metadata,
        deadline=None if remaining_s is None else time.monotonic() + remaining_s,
    )
    set_current_call(call)
    set_deadline(call.deadline)
    return call


def _counted(call: RpcCall, request: Any) -> Any:
    """Count the request; a stream of them is counted as it is read."""
    if not hasattr(request, "__aiter__"):
        call.received += 1
        return request

    async def counted() -> AsyncIterator[Any]:
        async for message in request:
            call.received += 1
            yield message

    return counted()


def _kind(handler: Handler) -> RpcKind:
    if handler.request_streaming:
        return RpcKind.BIDI_STREAM if handler.response_streaming else RpcKind.CLIENT_STREAM
    return RpcKind.SERVER_STREAM if handler.response_streaming else RpcKind.UNARY
