"""How much one key may do: requests a second, requests at once, bytes stored. Counted by each process for itself."""

import math
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from moontune.errors import ResourceExhausted
from moontune.values.principal import Principal

BURST_S = 1.0
"""A key that was quiet may send the requests of this many seconds at once; one at least."""

_MOST_KEYS = 65536
_STORAGE_RETRY_S = 60.0


@dataclass(slots=True)
class _Use:
    """tokens: requests that may be sent now; they come back at the key's rate. running: requests under way."""

    tokens: float
    at_s: float
    running: int = 0


class KeyLimiter:
    """Lets a key's requests in as its limits allow. Internal calls were let in where they came from."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds."""
        self._clock = clock
        self._uses: dict[str, _Use] = {}

    @asynccontextmanager
    async def admitted(self, principal: Principal) -> AsyncGenerator[None, None]:
        """The length of one request.

        Raises:
            ResourceExhausted: too many at once, or too soon; says when to try again.
        """
        use = self._enter(principal)
        try:
            yield
        finally:
            if use is not None:
                use.running -= 1

    def _enter(self, principal: Principal) -> _Use | None:
        limits = principal.limits
        if principal.internal or not principal.key_id:
            return None
        if limits.requests_per_s is None and limits.concurrent_requests is None:
            return None
        use = self._use(principal.key_id, limits.requests_per_s)
        if limits.concurrent_requests is not None and use.running >= limits.concurrent_requests:
            raise ResourceExhausted(
                f"this key has {use.running} requests under way; allowed: {limits.concurrent_requests} at once",
                retry_after_s=1.0,
            )
        if limits.requests_per_s is not None:
            _take(use, limits.requests_per_s, self._clock())
        use.running += 1
        return use

    def _use(self, key_id: str, rate: float | None) -> _Use:
        use = self._uses.get(key_id)
        if use is None:
            if len(self._uses) >= _MOST_KEYS:
                self._uses = {known: each for known, each in self._uses.items() if each.running}
            use = self._uses[key_id] = _Use(_burst(rate or 0.0), self._clock())
        return use


def _burst(rate: float) -> float:
    return max(1.0, rate * BURST_S)


def _take(use: _Use, rate: float, now_s: float) -> None:
    use.tokens = min(_burst(rate), use.tokens + (now_s - use.at_s) * rate)
    use.at_s = now_s
    if use.tokens < 1.0:
        wait_s = (1.0 - use.tokens) / rate
        raise ResourceExhausted(
            f"this key may send {rate:g} requests a second; try again in {math.ceil(wait_s)} s", retry_after_s=wait_s
        )
    use.tokens -= 1.0


def require_storage(principal: Principal, used_bytes: int, more_bytes: int) -> None:
    """Raise ResourceExhausted where storing more would exceed the caller's quota; without one nothing is refused.

    used_bytes: what the organisation has stored. more_bytes: what is to come.
    """
    quota = principal.limits.storage_bytes
    if quota is not None and used_bytes + more_bytes > quota:
        raise ResourceExhausted(
            f"{used_bytes} bytes are stored and {more_bytes} are to come; this key's quota is {quota} bytes: delete "
            "checkpoints, or ask for more",
            metadata={"used_bytes": str(used_bytes), "quota_bytes": str(quota)},
            retry_after_s=_STORAGE_RETRY_S,
        )
