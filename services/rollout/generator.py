"""One order from its model string to its scored group."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from moontune.engine.image_store import ImageStore
from moontune.engine.measures import measure
from moontune.engine.order import Generation, GenerationOrder
from moontune.telemetry.metrics import ServiceMetrics
from moontune.values.request import SkillRequest
from moontune.values.reward import RewardResult, RewardSample, RewardSpec
from moontune.values.rollout import RolloutGroup
from moontune.values.rollout_order import RolloutOrder
from services.rollout.policies import Policies


class Worker(Protocol):
    """The part of the model worker that is needed."""

    async def call(self, component: str, method: str, *args: object) -> Any:
        """Run a component's method."""
        ...


class Scorer(Protocol):
    """The part of the reward service's client that is needed."""

    async def score(self, reward: RewardSpec, samples: Sequence[RewardSample]) -> Sequence[RewardResult]:
        """One result a sample; a spec without components takes the default of the samples' skill."""
        ...


class Generator:
    """Generates groups with the engine and has them scored where there is ground truth."""

    def __init__(
        self, worker: Worker, policies: Policies, images: ImageStore, scorer: Scorer, metrics: ServiceMetrics
    ) -> None:
        """All are the process's own; nothing is owned here."""
        self._worker, self._policies, self._images, self._scorer = worker, policies, images, scorer
        self._metrics = metrics

    async def generate(self, order: RolloutOrder, organisation: str) -> RolloutGroup:
        """The group of an order; its request names the image by digest.

        Raises what resolving the policy, generating and scoring raise; a group that cannot be scored is not returned
        unscored.
        """
        request = self._images.fill(order.request, organisation, "order.request.images[0]")
        seed = secrets.randbits(63) if order.seed is None else order.seed
        newest = self._policies.lend(order.model, organisation, "order.model", order.max_staleness_steps)
        async with newest as (policy, adapter):
            started = time.monotonic()
            generation: Generation = await self._worker.call(
                "engine",
                "generate",
                GenerationOrder(
                    request, order.rollout_count, seed, policy, adapter, "order.request", "order.request.images[0]"
                ),
            )
        measure(self._metrics, generation, time.monotonic() - started)
        image = order.request.image
        named = replace(order.request, image=None if image is None else image.named())
        group = replace(generation.group, request=named)
        return group if order.ground_truth is None else await self._scored(order, group, request)

    async def _scored(self, order: RolloutOrder, group: RolloutGroup, request: SkillRequest) -> RolloutGroup:
        """The group with its rewards. request: with the image's bytes, which only a judge that sees is sent."""
        assert order.ground_truth is not None
        samples = [
            RewardSample(request, rollout.output, order.ground_truth, len(rollout.decisions))
            for rollout in group.rollouts
        ]
        results = await self._scorer.score(order.reward or RewardSpec(()), samples)
        return replace(group, rewards=tuple(result.reward for result in results))
