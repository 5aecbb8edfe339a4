"""When a failed call is made again, and how long after."""

import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import tenacity

from moontune.errors import MoontuneError
from moontune.telemetry.logs import get_logger

T = TypeVar("T")

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Retries of errors that are `retryable`.

    The wait before try n + 1 is first_s * 2^(n-1), at most most_s, times a random factor in 0.8..1.2; never shorter
    than the service's own RetryInfo. No try begins after the deadline. attempts: tries in all; 1 never retries.
    longest_asked_s: an error that asks for a longer wait is raised at once, for a caller that can tell its own.
    """

    attempts: int = 6
    first_s: float = 0.1
    most_s: float = 5.0
    longest_asked_s: float = float("inf")

    def wait_s(self, tries: int, error: BaseException | None) -> float:
        """Seconds after this many failed tries (1 or more)."""
        backoff = min(self.most_s, self.first_s * 2.0 ** (tries - 1)) * random.uniform(0.8, 1.2)
        asked = error.retry_after_s if isinstance(error, MoontuneError) else None
        return max(backoff, asked or 0.0)

    async def run(self, attempt: Callable[[], Awaitable[T]], deadline: float, name: str) -> T:
        """Try until it works, raising the last error. deadline: on time.monotonic's clock. name: for the log."""

        def wait(state: tenacity.RetryCallState) -> float:
            return self.wait_s(state.attempt_number, state.outcome.exception() if state.outcome else None)

        def stop(state: tenacity.RetryCallState) -> bool:
            asked_too_long = state.upcoming_sleep > max(self.longest_asked_s, 1.2 * self.most_s)
            late = time.monotonic() + state.upcoming_sleep >= deadline
            return state.attempt_number >= self.attempts or asked_too_long or late

        def told(state: tenacity.RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            log.info("retrying", rpc=name, tries=state.attempt_number, after_s=state.upcoming_sleep, error=str(error))

        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(is_retryable), wait=wait, stop=stop, before_sleep=told, reraise=True
        )
        return await retrying(attempt)


NO_RETRY = RetryPolicy(attempts=1)


def is_retryable(error: BaseException) -> bool:
    """Whether trying again can help."""
    return isinstance(error, MoontuneError) and error.retryable
