"""A small service over well-known messages, registered as generated code does it, one rpc of each kind.

Each rpc asks `answer(text)` what to do, so that a test can raise, wait or call the worker through a real channel.
"""

# ruff: noqa: N802  (rpcs are named as the contract names them)
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
from google.protobuf.wrappers_pb2 import StringValue

SERVICE = "moontune.test.EchoService"
Answer = Callable[[str], Awaitable[str]]


class EchoServicer:
    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def Unary(self, request, context):
        return StringValue(value=await self._answer(request.value))

    async def ServerStream(self, request, context):
        yield StringValue(value="first")
        yield StringValue(value=await self._answer(request.value))

    async def ClientStream(self, requests, context):
        values = [request.value async for request in requests]
        return StringValue(value=await self._answer(",".join(values)))

    async def Bidi(self, requests, context):
        async for request in requests:
            yield StringValue(value=await self._answer(request.value))


KINDS = {
    "Unary": grpc.unary_unary_rpc_method_handler,
    "ServerStream": grpc.unary_stream_rpc_method_handler,
    "ClientStream": grpc.stream_unary_rpc_method_handler,
    "Bidi": grpc.stream_stream_rpc_method_handler,
}


def add_to_server(servicer, server) -> None:
    handlers = {
        name: make(getattr(servicer, name), StringValue.FromString, StringValue.SerializeToString)
        for name, make in KINDS.items()
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_registered_method_handlers(SERVICE, handlers)


class EchoStub:
    """Calls each kind and returns the last answer."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    def _callable(self, kind: str, make):
        return make(f"/{SERVICE}/{kind}", StringValue.SerializeToString, StringValue.FromString)

    async def call(self, kind: str, text: str, **options) -> str:
        channel = self._channel
        message = StringValue(value=text)
        if kind == "Unary":
            return (await self._callable(kind, channel.unary_unary)(message, **options)).value
        if kind == "ClientStream":
            return (await self._callable(kind, channel.stream_unary)(self._messages(message), **options)).value
        if kind == "ServerStream":
            stream = self._callable(kind, channel.unary_stream)(message, **options)
        else:
            stream = self._callable(kind, channel.stream_stream)(self._messages(message), **options)
        last = ""
        async for reply in stream:
            last = reply.value
        return last

    async def _messages(self, message: StringValue) -> AsyncIterator[StringValue]:
        yield message
