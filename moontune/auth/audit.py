"""Who did what, when, and how it ended: a table that is only ever added to.

Entries are written in batches by a thread of its own, so that no request waits for them; a kill can lose the last
second's. Reads are not recorded, changes and refusals are.
"""

import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import sqlalchemy as sa
import structlog
from sqlalchemy.exc import SQLAlchemyError

from moontune.auth.database import for_reading

FLUSH_S = 1.0
MOST_WAITING = 10_000
MOST_UNKNOWN_A_MINUTE = 120
"""Refusals of callers without a key that are kept; more would let a stranger fill the disk."""

_BATCH = 500

log = structlog.get_logger(__name__)

_metadata = sa.MetaData()
_audit = sa.Table(
    "audit_log",
    _metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("organisation", sa.String(64), nullable=False),
    sa.Column("key_id", sa.String(26), nullable=False),
    sa.Column("action", sa.String(256), nullable=False),
    sa.Column("outcome", sa.String(64), nullable=False),
    sa.Column("peer", sa.String(128), nullable=False),
)


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One act. action: "POST /v1/tuning/train_step", "/package.Service/Rpc" or "keys create". outcome: status or code.

    organisation and key_id are "" where the caller is not known.
    """

    organisation: str
    key_id: str
    action: str
    outcome: str
    peer: str = ""
    at: datetime = field(default_factory=lambda: datetime.now(UTC))


class AuditLog:
    """The table, over an engine of a database that has been migrated."""

    def __init__(self, engine: sa.Engine) -> None:
        """The writing thread starts with the first entry."""
        self._engine = engine
        self._reads = for_reading(engine)
        self._waiting: queue.Queue[AuditEntry | None] = queue.Queue(MOST_WAITING)
        self._writer: threading.Thread | None = None
        self._starting = threading.Lock()
        self._unknown = (0, 0)

    def note(self, entry: AuditEntry) -> None:
        """Add an entry soon; never blocks. Entries that come faster than the database takes them go to the log."""
        if not entry.key_id and not self._keep_unknown(entry):
            return
        with self._starting:
            if self._writer is None:
                self._writer = threading.Thread(target=self._write_forever, name="audit log", daemon=True)
                self._writer.start()
        try:
            self._waiting.put_nowait(entry)
        except queue.Full:
            log.warning("an audit entry was not stored", action=entry.action, key_id=entry.key_id)

    def list(self, organisation: str | None = None, limit: int = 100) -> list[AuditEntry]:
        """The newest entries (of an organisation), newest first."""
        query = sa.select(_audit).order_by(_audit.c.id.desc()).limit(limit)
        if organisation is not None:
            query = query.where(_audit.c.organisation == organisation)
        with self._reads.connect() as connection:
            return [_entry(row) for row in connection.execute(query).mappings()]

    def close(self) -> None:
        """Write what waits, and stop."""
        with self._starting:
            writer, self._writer = self._writer, None
        if writer is not None:
            self._waiting.put(None)
            writer.join(timeout=10.0)

    def _keep_unknown(self, entry: AuditEntry) -> bool:
        minute, count = int(entry.at.timestamp() // 60), 0
        if self._unknown[0] == minute:
            count = self._unknown[1]
        self._unknown = (minute, count + 1)
        return count < MOST_UNKNOWN_A_MINUTE

    def _write_forever(self) -> None:
        ended = False
        while not ended:
            batch, until_s = [self._waiting.get()], time.monotonic() + FLUSH_S
            while len(batch) < _BATCH and batch[-1] is not None:
                try:
                    batch.append(self._waiting.get(timeout=max(0.0, until_s - time.monotonic())))
                except queue.Empty:
                    break
            ended = batch[-1] is None
            self._write([entry for entry in batch if entry is not None])

    def _write(self, entries: Sequence[AuditEntry]) -> None:
        rows = [
            {
                "at": entry.at,
                "organisation": entry.organisation,
                "key_id": entry.key_id,
                "action": entry.action[:256],
                "outcome": entry.outcome[:64],
                "peer": entry.peer[:128],
            }
            for entry in entries
        ]
        try:
            if rows:
                with self._engine.begin() as connection:
                    connection.execute(_audit.insert(), rows)
        except SQLAlchemyError as error:
            log.error("audit entries were not stored", count=len(rows), exc_info=error)


def _entry(row: sa.RowMapping) -> AuditEntry:
    at: datetime = row["at"]
    return AuditEntry(
        organisation=row["organisation"],
        key_id=row["key_id"],
        action=row["action"],
        outcome=row["outcome"],
        peer=row["peer"],
        at=at if at.tzinfo else at.replace(tzinfo=UTC),
    )
