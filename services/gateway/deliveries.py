"""How often the answer to one train_step body reached its caller: what stands in for the id that HTTP lacks.

    request_id = sha256(key, finetune, sha256(body)) : n

n counts the responses to that body that were written to a connection with no disconnect seen. A body that comes again
because its answer was lost has the same n, so the trainer answers it from memory; one that comes again because the
caller wants to train twice on it has a new n. n is raised only after the write. A loss after the last byte has left
cannot be told apart without an id of the caller's. Counters are kept longer than the trainer keeps its ids (7 days).
"""

import hashlib
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

from moontune.serving.database import for_reading, open_database
from moontune.values.principal import LOCAL_ORGANISATION

MIGRATIONS = Path(__file__).parent / "migrations"
KEPT = timedelta(days=8)
_PURGE_EVERY = 256

_metadata = sa.MetaData()
_deliveries = sa.Table(
    "deliveries",
    _metadata,
    sa.Column("organisation", sa.String(64), primary_key=True),
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("delivered", sa.Integer, nullable=False),
    sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
)
_secrets = sa.Table(
    "gateway_secrets",
    _metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("organisation", sa.String(64), nullable=False),
    sa.Column("value", sa.String(128), nullable=False),
)
_RECORDS = "rollout-records"


def body_digest(key_id: str, finetune_id: str, body_sha256: bytes) -> str:
    """What makes two requests the same: the caller's key, the finetune, and every byte of the body."""
    digest = hashlib.sha256()
    for part in (key_id.encode(), finetune_id.encode(), body_sha256):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


class DeliveryCounters:
    """The counters of one database. Methods block; call them in a thread from asyncio."""

    def __init__(self, url: str) -> None:
        """Open and migrate the database."""
        self._engine = open_database(url, MIGRATIONS, version_table="gateway_version")
        self._reads = for_reading(self._engine)
        self._raised = 0

    def delivered(self, organisation: str, digest: str) -> int:
        """n: answers to this body that reached their caller."""
        query = sa.select(_deliveries.c.delivered).where(*_key(organisation, digest))
        with self._reads.begin() as connection:
            return connection.execute(query).scalar() or 0

    def raise_to(self, organisation: str, digest: str, delivered: int) -> None:
        """Set n, never lower than it is."""
        now = datetime.now(UTC)
        changed = (
            _deliveries.update()
            .where(*_key(organisation, digest))
            .values(
                delivered=sa.case(
                    (_deliveries.c.delivered > delivered, _deliveries.c.delivered), else_=sa.literal(delivered)
                ),
                updated_at=now,
            )
        )
        with self._engine.begin() as connection:
            if connection.execute(changed).rowcount == 0:
                connection.execute(
                    _deliveries.insert().values(
                        organisation=organisation, digest=digest, delivered=delivered, updated_at=now
                    )
                )
            self._raised += 1
            if self._raised % _PURGE_EVERY == 0:
                connection.execute(_deliveries.delete().where(_deliveries.c.updated_at < now - KEPT))

    def record_secret(self) -> bytes:
        """The secret that signs rollout records, made at the first call; replicas that share the database share it."""
        query = sa.select(_secrets.c.value).where(_secrets.c.name == _RECORDS)
        with self._engine.begin() as connection:
            value = connection.execute(query).scalar()
            if value is None:
                value = secrets.token_hex(32)
                connection.execute(
                    _secrets.insert().values(name=_RECORDS, organisation=LOCAL_ORGANISATION, value=value)
                )
        return bytes.fromhex(value)

    def close(self) -> None:
        """Close the pool."""
        self._engine.dispose()


def _key(organisation: str, digest: str) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    return _deliveries.c.organisation == organisation, _deliveries.c.digest == digest
