"""One request from its model string to its answer."""

import secrets
import time
from typing import Any, Protocol

from moontune.engine.image_store import ImageStore
from moontune.engine.order import Generation, GenerationOrder
from moontune.telemetry import names
from moontune.telemetry.metrics import ServiceMetrics
from moontune.values.inference import InferenceRequest, InferenceResult
from services.inference.models import Models


class Worker(Protocol):
    """The part of the model worker that is needed."""

    async def call(self, component: str, method: str, *args: object) -> Any:
        """Run a component's method."""
        ...


class Answerer:
    """Answers with the engine: one rollout a request."""

    def __init__(self, worker: Worker, models: Models, images: ImageStore, metrics: ServiceMetrics) -> None:
        """All are the process's own; nothing is owned here."""
        self._worker, self._models, self._images, self._metrics = worker, models, images, metrics

    async def answer(self, asked: InferenceRequest, organisation: str) -> InferenceResult:
        """The answer and the weights it came from; raises what resolving the model and generating raise."""
        request = self._images.fill(asked.request, organisation, "input.images[0]")
        seed = secrets.randbits(63) if asked.seed is None else asked.seed
        async with self._models.lend(asked.model, organisation, "input.model") as (policy, adapter):
            started = time.monotonic()
            order = GenerationOrder(request, 1, seed, policy, adapter, "task", "input.images[0]")
            generation: Generation = await self._worker.call("engine", "generate", order)
        rollout = generation.group.rollouts[0]
        skill = str(request.skill)
        self._metrics.counter(names.ROLLOUTS, skill=skill, finish_reason=str(rollout.finish_reason)).inc()
        self._metrics.counter(names.GENERATED_TOKENS, skill=skill).inc(generation.usage.output_tokens)
        self._metrics.histogram(names.GROUP_SECONDS, skill=skill).observe(time.monotonic() - started)
        self._metrics.histogram(names.QUEUE_SECONDS).observe(generation.usage.queue_s)
        return InferenceResult(rollout.output, rollout.policy, rollout.finish_reason, generation.usage)
