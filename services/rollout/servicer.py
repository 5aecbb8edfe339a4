"""RolloutService on the chassis: convert, call, convert."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from moontune.api.common.v1 import rollout_pb2
from moontune.api.rollout.v1 import rollout_service_pb2 as pb
from moontune.api.rollout.v1 import rollout_service_pb2_grpc
from moontune.auth.context import current_principal
from moontune.clients.credentials import Credentials
from moontune.clients.reward import RewardClient
from moontune.clients.trainer import TrainerClient
from moontune.engine.gauges import refresh_forever
from moontune.engine.image_store import ImageStore
from moontune.errors import Draining, InvalidField, MoontuneError
from moontune.serving.chassis import Chassis
from moontune.serving.engine_service import adapter_folders
from moontune.serving.worker import ModelWorker
from moontune.values.engine import EngineStatus
from moontune.values.rollout_order import RolloutOrder
from moontune.wire.checks import required
from moontune.wire.engine import engine_status_to_proto
from moontune.wire.item_error import item_error_to_proto
from moontune.wire.rollout import rollout_group_to_proto
from moontune.wire.rollout_order import rollout_order_from_proto
from services.rollout.config import RolloutSettings
from services.rollout.generator import Generator
from services.rollout.policies import Policies
from services.rollout.stream import in_completion_order

MAX_TAG = 128


async def build(chassis: Chassis, settings: RolloutSettings) -> None:
    """Register the service on the chassis."""
    assert chassis.worker is not None, "the rollout service needs a model worker"
    token = settings.internal_token.get_secret_value() if settings.internal_token else None
    credentials = Credentials(internal_token=token)
    trainer = TrainerClient(settings.trainer_address, credentials)
    reward = RewardClient(settings.reward_address, credentials)
    chassis.on_stop(trainer.close)
    chassis.on_stop(reward.close)
    folders = adapter_folders(chassis, settings)
    policies = Policies(trainer, folders, chassis.worker, settings.base_aliases)
    chassis.on_stop(policies.close)
    images = ImageStore(settings.image_bytes)
    generator = Generator(chassis.worker, policies, images, reward, chassis.metrics)
    servicer = RolloutServicer(generator, policies, chassis.worker, chassis.draining, settings.stream_orders)
    chassis.add(rollout_service_pb2_grpc.add_RolloutServiceServicer_to_server, servicer)
    chassis.spawn(refresh_forever(chassis.worker, chassis.metrics), "engine gauges")


class RolloutServicer(rollout_service_pb2_grpc.RolloutServiceServicer):
    """Attempts at prompts, one group a call or many in a stream."""

    def __init__(
        self,
        generator: Generator,
        policies: Policies,
        worker: ModelWorker,
        draining: asyncio.Event,
        stream_orders: int,
    ) -> None:
        """stream_orders: most orders of one stream under way."""
        self._policies = policies
        self._generator, self._worker, self._draining = generator, worker, draining
        self._stream_orders = stream_orders

    async def GenerateRollouts(  # noqa: N802
        self, request: pb.GenerateRolloutsRequest, context: Any
    ) -> pb.GenerateRolloutsResponse:
        """Generate one group."""
        required(request.HasField("order"), "order", "what to generate")
        order = rollout_order_from_proto(request.order)
        return pb.GenerateRolloutsResponse(group=await self._group(order))

    async def StreamRollouts(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.StreamRolloutsRequest], context: Any
    ) -> AsyncIterator[pb.StreamRolloutsResponse]:
        """Generate group after group, answered as each is done."""
        async with contextlib.aclosing(
            in_completion_order(request_iterator, self._answer, self._stream_orders)
        ) as answers:
            async for answer in answers:
                yield answer
                if self._draining.is_set():
                    raise Draining("the rollout service is stopping; send the unanswered orders again")

    async def GetEngineStatus(  # noqa: N802
        self, request: pb.GetEngineStatusRequest, context: Any
    ) -> pb.GetEngineStatusResponse:
        """What the engine does now, and which adapters of the caller's organisation it holds."""
        status: EngineStatus = await self._worker.call("engine", "status")
        organisation = current_principal().organisation
        own = tuple(
            each for each in status.adapters if self._policies.lent_to(organisation, each.policy.adapter_digest)
        )
        return pb.GetEngineStatusResponse(status=engine_status_to_proto(replace(status, adapters=own)))

    async def _answer(self, request: pb.StreamRolloutsRequest) -> pb.StreamRolloutsResponse:
        """One order's group, or its error: another order's stream goes on."""
        try:
            if not 1 <= len(request.tag) <= MAX_TAG:
                raise InvalidField.of("tag", request.tag, f"1 to {MAX_TAG} characters")
            required(request.HasField("order"), "order", "what to generate")
            order = rollout_order_from_proto(request.order)
            return pb.StreamRolloutsResponse(tag=request.tag, group=await self._group(order))
        except MoontuneError as error:
            return pb.StreamRolloutsResponse(tag=request.tag, error=item_error_to_proto(error))

    async def _group(self, order: RolloutOrder) -> rollout_pb2.RolloutGroup:
        group = await self._generator.generate(order, current_principal().organisation)
        # In a thread: 64 rollouts of 2048 decisions take a quarter of a second, and health answers within 100 ms.
        return await asyncio.to_thread(rollout_group_to_proto, group)
