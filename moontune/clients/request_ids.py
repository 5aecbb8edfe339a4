"""Idempotency ids: made once for a mutation and kept over its retries."""

from ulid import ULID


def new_request_id() -> str:
    """An id that was never used."""
    return str(ULID())
