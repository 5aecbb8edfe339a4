"""The caller of the running task, in a context variable; servicers read it, the chassis sets it."""

from contextvars import ContextVar

from moontune.values.principal import LOCAL_PRINCIPAL, Principal

_current: ContextVar[Principal | None] = ContextVar("moontune_principal", default=None)


def current_principal() -> Principal:
    """The caller of the rpc or HTTP request that this task answers; the local principal outside of one.

    Outside of a request (a job's own loop) call `set_principal` first, so that calls to other services carry the
    right organisation.
    """
    return _current.get() or LOCAL_PRINCIPAL


def set_principal(principal: Principal) -> None:
    """Bind the caller for the rest of this task."""
    _current.set(principal)
