"""What the routes share: one object per application."""

import asyncio
from dataclasses import dataclass, field
from typing import cast
from weakref import WeakValueDictionary

from fastapi import Request

from moontune.values.rollout import RolloutGroup
from moontune.values.training import TrainStepResult
from services.gateway.config import GatewaySettings
from services.gateway.deliveries import DeliveryCounters
from services.gateway.images import ImageReader
from services.gateway.links import LinkSigner
from services.gateway.model_names import ModelNames
from services.gateway.readiness import Readiness
from services.gateway.record import RecordSigner
from services.gateway.unfinished import HeldResults, JoinedWork
from services.gateway.upstream import Upstream


@dataclass(slots=True)
class GatewayState:
    """The gateway's parts. locks: one per train_step body, held from the last byte of an answer until it is counted."""

    settings: GatewaySettings
    upstream: Upstream
    models: ModelNames
    readiness: Readiness
    counters: DeliveryCounters
    signer: RecordSigner
    links: LinkSigner
    images: ImageReader
    rollouts: HeldResults[RolloutGroup]
    train_steps: JoinedWork[TrainStepResult] = field(default_factory=JoinedWork[TrainStepResult])
    locks: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary[str, asyncio.Lock])

    def lock(self, digest: str) -> asyncio.Lock:
        """The lock of one body; it lives while somebody holds a reference."""
        lock = self.locks.get(digest)
        if lock is None:
            lock = self.locks[digest] = asyncio.Lock()
        return lock

    async def close(self) -> None:
        """End work under way, close channels and the database."""
        await self.rollouts.close()
        await self.train_steps.close()
        await self.upstream.close()
        await self.images.close()
        await self.readiness.close()
        await asyncio.to_thread(self.counters.close)


def state_of(request: Request) -> GatewayState:
    """The state of the application that answers this request."""
    return cast("GatewayState", request.app.state.gateway)
