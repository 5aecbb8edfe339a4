"""Answers to mutating rpcs, remembered by request id for 7 days, across restarts.

An answer is stored inside the transaction of its effect: a retry finds it, a crash before it finds neither.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import cast

import sqlalchemy as sa

from moontune.errors import RequestIdReused
from services.trainer import tables
from services.trainer.transactions import Transactions

REQUESTS_KEPT = timedelta(days=7)

Json = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request id is remembered by. payload_digest: 64 hex digits. response: enough to build the answer again."""

    organisation: str
    rpc: str
    request_id: str
    payload_digest: str
    response: Json


class Answers:
    """The remembered answers of one database. Blocking."""

    def __init__(self, transactions: Transactions) -> None:
        """Use a database that has been migrated."""
        self._transactions = transactions

    def known(self, organisation: str, rpc: str, request_id: str) -> bool:
        """Whether this request id was answered, whatever its payload."""
        return self._find(organisation, rpc, request_id) is not None

    def replay(self, organisation: str, rpc: str, request_id: str, payload_digest: str) -> Json | None:
        """The stored response to this request id, or None.

        Raises:
            RequestIdReused: the id came with another payload within the last 7 days.
        """
        row = self._find(organisation, rpc, request_id)
        if row is None:
            return None
        digest, response = row
        if digest != payload_digest:
            raise RequestIdReused(
                f"request_id {request_id!r} came with another {rpc} payload before; take a new id for a new request",
                metadata={"request_id": request_id},
            )
        return response

    def remember(self, answer: Answer) -> None:
        """Store an answer to a request that changed nothing else."""
        with self._transactions.write() as connection:
            insert_answer(connection, answer)

    def forget_old(self) -> None:
        """Drop answers older than 7 days."""
        limit = datetime.now(UTC) - REQUESTS_KEPT
        with self._transactions.write() as connection:
            connection.execute(sa.delete(tables.requests).where(tables.requests.c.created_at < limit))

    def _find(self, organisation: str, rpc: str, request_id: str) -> tuple[str, Json] | None:
        table = tables.requests
        query = sa.select(table.c.payload_digest, table.c.response).where(
            table.c.organisation == organisation, table.c.rpc == rpc, table.c.request_id == request_id
        )
        with self._transactions.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else (row.payload_digest, cast("Json", row.response))


def insert_answer(connection: sa.Connection, answer: Answer) -> None:
    """Store an answer inside the transaction of its effect."""
    connection.execute(
        sa.insert(tables.requests).values(
            organisation=answer.organisation,
            rpc=answer.rpc,
            request_id=answer.request_id,
            payload_digest=answer.payload_digest,
            response=dict(answer.response),
            created_at=datetime.now(UTC),
        )
    )
