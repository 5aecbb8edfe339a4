"""A circuit breaker: after failures in a row nothing is sent for a while, then one call tries again."""

import time
from collections.abc import Callable

FAILURES_TO_OPEN = 5
OPEN_S = 30.0


class CircuitOpen(Exception):
    """The other side failed too often; left_s: seconds until it is tried again."""

    def __init__(self, left_s: float) -> None:
        super().__init__(f"it failed {FAILURES_TO_OPEN} times in a row; it is tried again in {left_s:.0f} s")
        self.left_s = left_s


class Breaker:
    """Closed (calls pass), open (none does for OPEN_S), half-open (one passes, and its outcome decides)."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._opened_at: float | None = None
        self._trying = False

    def enter(self) -> None:
        """Ask to make a call; its outcome must follow. Raises CircuitOpen."""
        if self._opened_at is None:
            return
        left_s = self._opened_at + OPEN_S - self._clock()
        if left_s > 0 or self._trying:
            raise CircuitOpen(max(left_s, 1.0))
        self._trying = True

    def succeeded(self) -> None:
        """The call worked: close."""
        self._failures, self._opened_at, self._trying = 0, None, False

    def failed(self) -> None:
        """The call did not: count, and open when it is enough."""
        self._failures, self._trying = self._failures + 1, False
        if self._failures >= FAILURES_TO_OPEN:
            self._opened_at = self._clock()

    def abandoned(self) -> None:
        """The call was given up before its outcome was known."""
        self._trying = False
