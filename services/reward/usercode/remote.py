"""A RewardPluginService that the user runs: called with a timeout, retries, a cap on calls, and a circuit breaker."""

import asyncio
from collections.abc import Mapping, Sequence

from moontune.clients.reward_plugin import RewardPluginClient
from moontune.errors import Code, DeadlineExceeded, InvalidField, MoontuneError
from moontune.values.reward import Parameter, ParseStatus, RewardInfo, RewardResult, RewardSample
from moontune.values.reward_definition import RemoteReward
from services.reward.sandbox.verdict import Failure, Verdict, checked_number
from services.reward.usercode.breaker import Breaker, CircuitOpen

BATCH = 64
"""Samples of one call."""

MAX_WAIT_S = 60.0
"""How long a batch may wait for its turn under the cap."""


class RemoteService:
    """One endpoint with its settings, shared by everyone who scores with it; see `Source`."""

    kind = "remote"

    def __init__(self, remote: RemoteReward, client: RewardPluginClient | None = None) -> None:
        self._remote = remote
        self._client = client or RewardPluginClient(remote.endpoint, deadline_s=remote.timeout_s)
        self._slots = asyncio.Semaphore(remote.max_concurrency)
        self._breaker = Breaker()

    async def describe(self) -> RewardInfo:
        """What the plugin says of itself. Raises as clients do."""
        return await self._client.describe()

    async def score(self, samples: Sequence[RewardSample], parameters: Mapping[str, Parameter]) -> Sequence[Verdict]:
        """One verdict a sample; those of a call that failed say why."""
        batches = [samples[start : start + BATCH] for start in range(0, len(samples), BATCH)]
        scored = await asyncio.gather(*(self._batch(batch, parameters) for batch in batches))
        return [verdict for verdicts in scored for verdict in verdicts]

    async def close(self) -> None:
        """Close the channel."""
        await self._client.close()

    async def _batch(self, samples: Sequence[RewardSample], parameters: Mapping[str, Parameter]) -> list[Verdict]:
        try:
            async with asyncio.timeout(MAX_WAIT_S + self._remote.timeout_s), self._slots:
                self._breaker.enter()
                results = await self._call(samples, parameters)
        except CircuitOpen as circuit:
            return self._failed(samples, Failure.UNREACHABLE, str(circuit))
        except TimeoutError:
            return self._failed(samples, Failure.UNREACHABLE, "too many batches were waiting for it")
        except InvalidField as error:
            return self._failed(samples, Failure.BAD_RESULT, error.message)
        except MoontuneError as error:
            late = isinstance(error, DeadlineExceeded)
            return self._failed(samples, Failure.TIME_LIMIT if late else Failure.UNREACHABLE, error.message)
        if len(results) != len(samples):
            said = f"{len(results)} results for {len(samples)} samples"
            return self._failed(samples, Failure.BAD_RESULT, said)
        return [_verdict(result) for result in results]

    async def _call(
        self, samples: Sequence[RewardSample], parameters: Mapping[str, Parameter]
    ) -> Sequence[RewardResult]:
        """One call, its outcome told to the breaker; a refusal of what was sent is an answer too."""
        try:
            results = await self._client.score(samples, parameters)
        except asyncio.CancelledError:  # the caller left: that says nothing of the plugin
            self._breaker.abandoned()
            raise
        except MoontuneError as error:
            self._breaker.succeeded() if error.code is Code.INVALID_ARGUMENT else self._breaker.failed()
            raise
        self._breaker.succeeded()
        return results

    def _failed(self, samples: Sequence[RewardSample], failure: Failure, why: str) -> list[Verdict]:
        return [Verdict.failed(failure, f"{self._remote.endpoint}: {why}")] * len(samples)


def _verdict(result: RewardResult) -> Verdict:
    if result.status is ParseStatus.FAILED or result.reward is None:
        return Verdict.failed(Failure.RAISED, result.detail)
    try:
        parts = {name: checked_number(value, name) for name, value in result.components.items()}
        return Verdict(checked_number(result.reward, "reward"), parts, result.detail)
    except ValueError as error:
        return Verdict.failed(Failure.BAD_RESULT, str(error))
