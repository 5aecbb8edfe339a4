"""What every async client has: an address, credentials, a deadline, retries, and an end."""

from typing import Self

from moontune.clients.connection import Connection, Target
from moontune.clients.credentials import Credentials
from moontune.clients.images import SentImages
from moontune.clients.retry import RetryPolicy


class ServiceClient:
    """An async client of one service; belongs to the event loop of its first call.

    Every method raises errors of `moontune.errors`: those that the service raised, Unavailable where it cannot be
    reached, DeadlineExceeded. Retryable ones are raised only after the retries.
    """

    default_deadline_s = 60.0

    def __init__(
        self,
        address: str,
        credentials: Credentials | None = None,
        *,
        deadline_s: float | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        """Connect on the first call.

        Args:
            address: host:port, or anything that gRPC resolves (`dns:///trainer:7053`).
            credentials: None works on the same machine while no keys are configured.
            deadline_s: of each call that sets none; None takes the class's default.
            retry: None takes the default policy.
        """
        deadline = self.default_deadline_s if deadline_s is None else deadline_s
        self._connection = Connection(Target(address, credentials or Credentials(), deadline, retry or RetryPolicy()))
        self._images = SentImages()

    async def close(self) -> None:
        """Close the channel; calls under way are cancelled."""
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
