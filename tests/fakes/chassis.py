"""A real chassis round the echo service, and how to ask its health."""

import asyncio
import contextlib
import socket
import time

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from moontune.serving.server import ServiceApp, opened
from moontune.serving.settings import ServiceSettings
from tests.fakes.echo import EchoServicer, EchoStub, add_to_server


@contextlib.asynccontextmanager
async def echoing(answer, settings=None, worker=None, service="echo"):
    """A chassis with the echo service whose rpcs call `answer(chassis, text)`, and a stub on a channel to it."""

    async def build(chassis) -> None:
        async def bound(text: str) -> str:
            return await answer(chassis, text)

        chassis.add(add_to_server, EchoServicer(bound))

    async with (
        opened([ServiceApp(service, settings or ServiceSettings(), build)], worker) as [chassis],
        grpc.aio.insecure_channel(f"127.0.0.1:{chassis.port}") as channel,
    ):
        yield chassis, EchoStub(channel), channel


async def health_of(channel, service: str = "") -> int:
    return (
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
    ).status


SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def until(condition, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while True:
        result = condition()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.01)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
