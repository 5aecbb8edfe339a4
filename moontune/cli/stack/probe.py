"""Whether a service on loopback is ready: gRPC health for a service, `GET /health` for the gateway.

The health call is made with raw bytes (an empty request; a response whose only field is the status), so that this
works without the generated health stubs, which come with the `serve` extra.
"""

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
    return await (http_ready(f"http://{address}") if listener.http else grpc_ready(address))


async def grpc_ready(address: str) -> bool:
    """True when the service at host:port says SERVING within 2 s."""
    async with grpc.aio.insecure_channel(address) as channel:
        check = channel.unary_unary(CHECK, request_serializer=bytes, response_deserializer=bytes)
        try:
            return await check(b"", timeout=TIMEOUT_S) == SERVING
        except grpc.aio.AioRpcError:
            return False


async def http_ready(url: str) -> bool:
    """True when the gateway at `url` answers 200 to GET /health within 2 s: every service behind it is ready."""
    try:
        async with httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as client:
            return (await client.get(f"{url}/health")).status_code == 200
    except httpx.HTTPError:
        return False
