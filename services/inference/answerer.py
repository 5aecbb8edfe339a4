"""One request from its model string to its answer, whole or in pieces."""

import contextlib
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Protocol

from moontune.engine.image_store import ImageStore
from moontune.engine.measures import measure
from moontune.engine.order import Generation, GenerationOrder
from moontune.telemetry.metrics import ServiceMetrics
from moontune.values.inference import InferenceEvent, InferenceRequest, InferenceResult
from services.inference.models import Models


class Worker(Protocol):
    """The part of the model worker that is needed."""

    async def call(self, component: str, method: str, *args: object) -> Any:
        """Run a component's method."""
        ...

    def stream(self, component: str, method: str, *args: object) -> AsyncGenerator[Any, None]:
        """Run a component's method and yield what it emits; closing the generator cancels it."""
        ...


class Answerer:
    """Answers with the engine: one rollout a request."""

    def __init__(self, worker: Worker, models: Models, images: ImageStore, metrics: ServiceMetrics) -> None:
        """All are the process's own; nothing is owned here."""
        self._worker, self._models, self._images, self._metrics = worker, models, images, metrics

    async def answer(self, asked: InferenceRequest, organisation: str) -> InferenceResult:
        """The answer and the weights it came from; raises what resolving the model and generating raise."""
        started = time.monotonic()
        async with self._order(asked, organisation) as order:
            return self._result(await self._worker.call("engine", "generate", order), started)

    async def stream(self, asked: InferenceRequest, organisation: str) -> AsyncGenerator[InferenceEvent, None]:
        """The pieces as they are decided, the result last; closing the generator frees the engine's slot.

        Raises what `answer` raises, before the first piece or between two.
        """
        started = time.monotonic()
        async with (
            self._order(asked, organisation) as order,
            contextlib.aclosing(self._worker.stream("engine", "stream", order)) as pieces,
        ):
            async for piece in pieces:
                yield self._result(piece, started) if isinstance(piece, Generation) else piece

    @asynccontextmanager
    async def _order(self, asked: InferenceRequest, organisation: str) -> AsyncGenerator[GenerationOrder]:
        """What the engine is asked; the adapter's files stay on this machine for the length of the block."""
        request = self._images.fill(asked.request, organisation, "input.images[0]")
        seed = secrets.randbits(63) if asked.seed is None else asked.seed
        async with self._models.lend(asked.model, organisation, "input.model") as (policy, adapter):
            yield GenerationOrder(request, 1, seed, policy, adapter, "task", "input.images[0]")

    def _result(self, generation: Generation, started: float) -> InferenceResult:
        measure(self._metrics, generation, time.monotonic() - started)
        rollout = generation.group.rollouts[0]
        return InferenceResult(rollout.output, rollout.policy, rollout.finish_reason, generation.usage)
