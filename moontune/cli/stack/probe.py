"""Whether a service on loopback is ready: gRPC health for a service, `GET /health` for the gateway.

The health call is made with raw bytes (an empty request; a response whose only field is the status), so that this
works without the generated health stubs, which come with the `serve` extra.
"""

from collections.abc import Collection
from typing import cast

import grpc
import httpx

from moontune.cli.stack.process import Listener

CHECK = "/grpc.health.v1.Health/Check"
SERVING = b"\x08\x01"
"""HealthCheckResponse{status: SERVING}: field 1, varint 1."""

TIMEOUT_S = 2.0


async def ready(listener: Listener) -> bool:
    """True when it answers on loopback that it is ready, within 2 s."""
    address = f"127.0.0.1:{listener.port}"
    return await (http_ready(f"http://{address}", listener.needs) if listener.http else grpc_ready(address))


async def grpc_ready(address: str) -> bool:
    """True when the service at host:port says SERVING within 2 s."""
    async with grpc.aio.insecure_channel(address) as channel:
        check = channel.unary_unary(CHECK, request_serializer=bytes, response_deserializer=bytes)
        try:
            return await check(b"", timeout=TIMEOUT_S) == SERVING
        except grpc.aio.AioRpcError:
            return False


async def http_ready(url: str, needs: Collection[str] | None = None) -> bool:
    """True when the gateway at `url` says within 2 s that the services behind it are ready: `needs`, or all of them."""
    try:
        async with httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as client:
            answer = await client.get(f"{url}/health")
        if needs is None or answer.status_code == 200:
            return answer.status_code == 200
        states = cast("dict[str, dict[str, str]]", answer.json())["services"]
        return all(states.get(name) == "ready" for name in needs)
    except (httpx.HTTPError, ValueError, KeyError):
        return False
