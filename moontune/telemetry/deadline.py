"""The deadline of the work that the running task does, in a context variable: calls to other services inherit it."""

from contextvars import ContextVar

_current: ContextVar[float | None] = ContextVar("moontune_deadline", default=None)


def current_deadline() -> float | None:
    """The deadline on time.monotonic's clock; None without one."""
    return _current.get()


def set_deadline(deadline: float | None) -> None:
    """Bind for the rest of this task."""
    _current.set(deadline)
