"""Client of the rollout service: groups of attempts at a request."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from moontune.api.rollout.v1 import rollout_service_pb2 as pb
from moontune.api.rollout.v1.rollout_service_pb2_grpc import RolloutServiceStub
from moontune.clients.connection import watched
from moontune.clients.service_client import ServiceClient
from moontune.errors import MoontuneError
from moontune.values.engine import EngineStatus
from moontune.values.request import SkillRequest
from moontune.values.rollout import RolloutGroup
from moontune.values.rollout_order import RolloutOrder
from moontune.wire.engine import engine_status_from_proto
from moontune.wire.item_error import item_error_from_proto
from moontune.wire.rollout import rollout_group_from_proto
from moontune.wire.rollout_order import rollout_order_to_proto

if TYPE_CHECKING:  # these classes exist in the stubs only
    from moontune.api.rollout.v1.rollout_service_pb2_grpc import RolloutServiceAsyncStub

TaggedOrders = AsyncIterable[tuple[str, RolloutOrder]] | Iterable[tuple[str, RolloutOrder]]


class RolloutClient(ServiceClient):
    """Async client of RolloutService."""

    default_deadline_s = 300.0

    @property
    def _stub(self) -> "RolloutServiceAsyncStub":
        return RolloutServiceStub(self._connection.channel)

    async def generate(self, order: RolloutOrder, *, deadline_s: float | None = None) -> RolloutGroup:
        """Generate one group. The group's request is the order's own, with the image's bytes where it had them.

        The service is sent an image's bytes once and its digest afterwards.
        """

        async def send(request: SkillRequest) -> RolloutGroup:
            message = pb.GenerateRolloutsRequest(order=rollout_order_to_proto(replace(order, request=request)))
            response = await self._connection.unary(self._stub.GenerateRollouts, message, deadline_s)
            return rollout_group_from_proto(response.group)

        return _with_own_request(await self._images.call(order.request, send), order)

    async def stream(
        self, orders: TaggedOrders, *, deadline_s: float | None = None
    ) -> AsyncGenerator[tuple[str, RolloutGroup | MoontuneError], None]:
        """Send orders, each under a tag of the caller's, and yield (tag, group or error) as they finish, in any order.

        Orders are read as the service takes them, so an endless source is fine; an ordinary iterator is read in a
        thread and may block. One order's error does not end the stream. An order is not retried by itself.
        """
        sent: dict[str, RolloutOrder] = {}
        raised: list[Exception] = []

        async def messages() -> AsyncIterator[pb.StreamRolloutsRequest]:
            async for tag, order in _one_by_one(orders):
                sent[tag] = order
                yield pb.StreamRolloutsRequest(tag=tag, order=rollout_order_to_proto(order))

        stub = self._stub
        replies = self._connection.stream(
            lambda timeout, metadata: stub.StreamRollouts(
                watched(messages(), raised), timeout=timeout, metadata=metadata
            ),
            deadline_s,
            attempts=1,
        )
        try:
            async with contextlib.aclosing(replies):
                async for reply in replies:
                    order = sent.pop(reply.tag, None)
                    if reply.WhichOneof("result") == "error":
                        yield reply.tag, item_error_from_proto(reply.error)
                    else:
                        group = rollout_group_from_proto(reply.group)
                        yield reply.tag, group if order is None else _with_own_request(group, order)
        except asyncio.CancelledError:
            if raised:
                raise raised[0] from None  # grpc cancels a call whose orders cannot be made
            raise

    async def engine_status(self, *, deadline_s: float | None = None) -> EngineStatus:
        """What the engine holds and does now."""
        response = await self._connection.unary(self._stub.GetEngineStatus, pb.GetEngineStatusRequest(), deadline_s)
        return engine_status_from_proto(response.status)


async def _one_by_one(orders: TaggedOrders) -> AsyncIterator[tuple[str, RolloutOrder]]:
    if isinstance(orders, AsyncIterable):
        async for tagged in orders:
            yield tagged
        return
    waiting = iter(orders)
    while (tagged := await asyncio.to_thread(next, waiting, None)) is not None:
        yield tagged


def _with_own_request(group: RolloutGroup, order: RolloutOrder) -> RolloutGroup:
    return replace(group, request=replace(group.request, image=order.request.image))
