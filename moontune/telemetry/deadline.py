"""The deadline of the work that the running task does, in a context variable: calls to other services inherit it."""

import time
from contextvars import ContextVar

_current: ContextVar[float | None] = ContextVar("moontune_deadline", default=None)


def current_deadline() -> float | None:
    """The deadline on time.monotonic's clock; None without one."""
    return _current.get()


def set_deadline(deadline: float | None) -> None:
    """Bind for the rest of this task."""
    _current.set(deadline)


def remaining_s() -> float | None:
    """Seconds to the deadline, not below 0; None without one."""
    deadline = _current.get()
    return None if deadline is None else max(0.0, deadline - time.monotonic())
