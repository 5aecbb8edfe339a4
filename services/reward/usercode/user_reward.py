"""A user's reward as an entry of the catalogue: scored in batches, counted, and now and then scored again backwards.

A reward is a function of its sample. Code that keeps state can tell samples of a batch by their order; a second look
in another order finds that out (and a reward that draws random numbers): the first score stands, the difference is
counted, logged and said in the results' detail.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import structlog

from moontune.telemetry import names
from moontune.telemetry.metrics import ServiceMetrics
from moontune.values.reward import Parameter, ParseStatus, RewardInfo, RewardResult, RewardSample
from services.reward.sandbox.verdict import MAX_REASON, Failure, Verdict
from services.reward.usercode.source import Source

AGAIN_EVERY = 100
"""One batch in so many is scored again in another order; the first of each reward is."""

SAME = 1e-9
_log = structlog.get_logger(__name__)


class UserReward:
    """See `BatchReward`. version: of its definition, for logs. again_every: 1 scores every batch twice."""

    def __init__(
        self,
        info: RewardInfo,
        source: Source,
        metrics: ServiceMetrics,
        version: str = "",
        again_every: int = AGAIN_EVERY,
    ) -> None:
        self.info = info
        self._source, self._metrics, self._version = source, metrics, version
        self._again_every, self._batches = again_every, 0

    async def score(
        self, samples: Sequence[RewardSample], parameters: Mapping[str, Parameter]
    ) -> Sequence[RewardResult]:
        """One result a sample, in their order; a failed grade has no reward and its failure in the detail."""
        results = [_result(verdict) for verdict in await self._verdicts(samples, parameters)]
        again, self._batches = self._batches % self._again_every == 0, self._batches + 1
        if not again or len(samples) < 2:
            return results
        backwards = await self._source.score(samples[::-1], parameters)
        return [self._compared(first, second) for first, second in zip(results, backwards[::-1], strict=True)]

    async def _verdicts(
        self, samples: Sequence[RewardSample], parameters: Mapping[str, Parameter]
    ) -> Sequence[Verdict]:
        verdicts = [self._in_range(verdict) for verdict in await self._source.score(samples, parameters)]
        for verdict in verdicts:
            if verdict.failure is not None:
                self._metrics.counter(names.USER_FAILURES, source=self._source.kind, failure=verdict.failure).inc()
        return verdicts

    def _in_range(self, verdict: Verdict) -> Verdict:
        low, high = self.info.minimum, self.info.maximum
        if verdict.reward is None or low <= verdict.reward <= high:
            return verdict
        allowed = f"the reward's range is {low:g} to {high:g}: register it with the minimum and maximum that it has"
        return Verdict.failed(Failure.BAD_RESULT, f"reward is {verdict.reward:g}; {allowed}")

    def _compared(self, first: RewardResult, second: Verdict) -> RewardResult:
        if first.reward is None or second.reward is None or abs(first.reward - second.reward) <= SAME:
            return first
        self._metrics.counter(names.DISAGREEMENTS).inc()
        _log.warning("a reward depends on order", reward=self.info.name, version=self._version)
        said = f"ORDER: {first.reward:g} at first, {second.reward:g} with its batch in another order"
        return replace(first, detail=f"{said}; {first.detail}".removesuffix("; ")[:MAX_REASON])


def _result(verdict: Verdict) -> RewardResult:
    if verdict.failure is None:
        return RewardResult(verdict.reward, verdict.components, detail=verdict.reason)
    detail = f"{verdict.failure}: {verdict.reason}"[:MAX_REASON]
    return RewardResult(None, {}, ParseStatus.FAILED, detail)
