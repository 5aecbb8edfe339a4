"""Whether the services behind the gateway are ready, by the standard gRPC health check."""

import asyncio
from collections.abc import Mapping
from enum import StrEnum

import grpc
from grpc_health.v1 import health_pb2

from moontune.clients.connection import Connection, Target

CHECK_S = 2.0


class ServiceState(StrEnum):
    """ready: takes calls. not_ready: answers, but is loading or stopping. unreachable: does not answer."""

    READY = "ready"
    NOT_READY = "not_ready"
    UNREACHABLE = "unreachable"


class Readiness:
    """Asks every service, all at once."""

    def __init__(self, targets: Mapping[str, Target]) -> None:
        """targets: service name to where it is."""
        self._connections = {name: Connection(target) for name, target in targets.items()}

    async def check(self) -> dict[str, ServiceState]:
        """The state of each service, within CHECK_S."""
        names = list(self._connections)
        states = await asyncio.gather(*(self._state(self._connections[name]) for name in names))
        return dict(zip(names, states, strict=True))

    async def close(self) -> None:
        """Close the channels."""
        for connection in self._connections.values():
            await connection.close()

    async def _state(self, connection: Connection) -> ServiceState:
        check = connection.channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = await check(health_pb2.HealthCheckRequest(), timeout=CHECK_S)
        except grpc.RpcError:
            return ServiceState.UNREACHABLE
        serving = answer.status == health_pb2.HealthCheckResponse.SERVING
        return ServiceState.READY if serving else ServiceState.NOT_READY
