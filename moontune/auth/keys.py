"""API keys in a database: made, listed, rotated, revoked, looked up. Only their SHA-256 is stored.

A key is `mt_` and 43 random characters (256 bits); at that length a plain SHA-256 cannot be searched, so no slow
hash is needed. The table is migrated when the store opens; several services may share one database.
"""

import hashlib
import math
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa
from ulid import ULID

from moontune.auth.audit import AuditEntry, AuditLog
from moontune.auth.database import for_reading, open_database
from moontune.errors import InvalidField, InvalidState, NotFound
from moontune.values.principal import NO_LIMITS, KeyLimits, Principal, Scope

_ORGANISATION = re.compile(r"(?=.*[A-Za-z0-9])[A-Za-z0-9_-]{1,64}")
"""ASCII, because it travels as gRPC metadata (`moontune.auth.internal_token`)."""

MIGRATIONS = Path(__file__).parent / "migrations"

_metadata = sa.MetaData()
_keys = sa.Table(
    "api_keys",
    _metadata,
    sa.Column("id", sa.String(26), primary_key=True),
    sa.Column("sha256", sa.String(64), nullable=False, unique=True),
    sa.Column("organisation", sa.String(64), nullable=False),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("scopes", sa.String(128), nullable=False),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
    sa.Column("requests_per_s", sa.Float, nullable=True),
    sa.Column("concurrent_requests", sa.Integer, nullable=True),
    sa.Column("storage_bytes", sa.BigInteger, nullable=True),
)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A stored key, without its secret. name: what its maker calls it.

    revoked_at: from when it no longer works, which a rotation may set ahead; None: it works for good.
    """

    id: str
    organisation: str
    name: str
    scopes: frozenset[Scope]
    created_at: datetime
    revoked_at: datetime | None = None
    limits: KeyLimits = NO_LIMITS

    def works(self, now: datetime) -> bool:
        """Whether it is accepted at that moment."""
        return self.revoked_at is None or self.revoked_at > now


class KeyStore:
    """The keys of one database URL. Its methods block; call them in a thread from asyncio."""

    def __init__(self, url: str) -> None:
        """Open and migrate. url: SQLAlchemy's, `sqlite:///data/gateway.db` or `postgresql+psycopg://...`."""
        self._engine = open_database(url, MIGRATIONS, version_table="auth_version")
        self._reads = for_reading(self._engine)
        self.audit = AuditLog(self._engine)

    def create(
        self,
        organisation: str,
        name: str = "",
        scopes: Iterable[Scope] = tuple(Scope),
        limits: KeyLimits | None = None,
    ) -> tuple[ApiKey, str]:
        """Make a key. Returns it and its secret, which is shown this once and never again."""
        if not _ORGANISATION.fullmatch(organisation):
            raise InvalidField.of("organisation", organisation, "1 to 64 ASCII letters, digits, - and _")
        if len(name) > 128:
            raise InvalidField.of("name", name, "at most 128 characters")
        now, limits = datetime.now(UTC), limits or NO_LIMITS
        _check_limits(limits)
        key = ApiKey(str(ULID()), organisation, name, frozenset(scopes), now, limits=limits)
        if not key.scopes:
            raise InvalidField.of("scopes", [], "one or more of " + ", ".join(Scope))
        with self._engine.begin() as connection:
            secret = _insert(connection, key)
        self._note("create", key)
        return key, secret

    def rotate(self, key_id: str, overlap: timedelta = timedelta()) -> tuple[ApiKey, str]:
        """A new key with an old one's organisation, name, scopes and limits; the old one works `overlap` longer.

        Raises:
            NotFound: no such key. InvalidState: it is revoked already.
        """
        now = datetime.now(UTC)
        with self._engine.begin() as connection:
            old = _stored(connection, key_id)
            if not old.works(now):
                raise InvalidState(f"key {key_id} was revoked at {old.revoked_at:%Y-%m-%d %H:%M}; create a new one")
            new = replace(old, id=str(ULID()), created_at=now, revoked_at=None)
            secret = _insert(connection, new)
            until = now + overlap if old.revoked_at is None else min(old.revoked_at, now + overlap)
            connection.execute(_keys.update().where(_keys.c.id == key_id).values(revoked_at=until))
        self._note("rotate", old)
        self._note("create", new)
        return new, secret

    def list(self, organisation: str | None = None) -> list[ApiKey]:
        """Every key (of an organisation), revoked ones included, oldest first."""
        query = sa.select(_keys).order_by(_keys.c.id)
        if organisation is not None:
            query = query.where(_keys.c.organisation == organisation)
        with self._reads.connect() as connection:
            return [_key(row) for row in connection.execute(query).mappings()]

    def revoke(self, key_id: str) -> ApiKey:
        """End a key; again is harmless. Services notice within `authenticator.CACHE_S` seconds."""
        now = datetime.now(UTC)
        with self._engine.begin() as connection:
            key = _stored(connection, key_id)
            if key.works(now):
                connection.execute(_keys.update().where(_keys.c.id == key_id).values(revoked_at=now))
                key = replace(key, revoked_at=now)
        self._note("revoke", key)
        return key

    def any(self) -> bool:
        """Whether a key was ever made; revoked ones count, so that revoking the last one does not open the door."""
        with self._reads.connect() as connection:
            return connection.execute(sa.select(_keys.c.id).limit(1)).first() is not None

    def lookup(self, secret: str) -> Principal | None:
        """The principal of a key that works; None for an unknown or revoked one."""
        query = sa.select(_keys).where(_keys.c.sha256 == _digest(secret))
        with self._reads.connect() as connection:
            row = connection.execute(query).mappings().one_or_none()
        key = None if row is None else _key(row)
        if key is None or not key.works(datetime.now(UTC)):
            return None
        return Principal(key.organisation, key.scopes, key.id, limits=key.limits)

    def close(self) -> None:
        """Write what is to be audited; close the connections."""
        self.audit.close()
        self._engine.dispose()

    def _note(self, action: str, key: ApiKey) -> None:
        self.audit.note(AuditEntry(key.organisation, key.id, f"keys {action}", "OK"))


def _check_limits(limits: KeyLimits) -> None:
    for name in ("requests_per_s", "concurrent_requests", "storage_bytes"):
        given: float | None = getattr(limits, name)
        if given is not None and not (math.isfinite(given) and given > 0):
            raise InvalidField.of(name, given, "more than 0; leave it out for no limit")


def _insert(connection: sa.Connection, key: ApiKey) -> str:
    """Store a key under a new secret, which is returned."""
    secret = "mt_" + secrets.token_urlsafe(32)
    connection.execute(
        _keys.insert().values(
            id=key.id,
            sha256=_digest(secret),
            organisation=key.organisation,
            name=key.name,
            scopes=" ".join(sorted(key.scopes)),
            created_at=key.created_at,
            requests_per_s=key.limits.requests_per_s,
            concurrent_requests=key.limits.concurrent_requests,
            storage_bytes=key.limits.storage_bytes,
        )
    )
    return secret


def _stored(connection: sa.Connection, key_id: str) -> ApiKey:
    row = connection.execute(sa.select(_keys).where(_keys.c.id == key_id)).mappings().one_or_none()
    if row is None:
        raise NotFound(f"no API key has the id {key_id!r}", metadata={"id": key_id})
    return _key(row)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _key(data: sa.RowMapping) -> ApiKey:
    revoked: datetime | None = data["revoked_at"]
    return ApiKey(
        id=data["id"],
        organisation=data["organisation"],
        name=data["name"],
        scopes=frozenset(Scope(scope) for scope in str(data["scopes"]).split()),
        created_at=_utc(data["created_at"]),
        revoked_at=None if revoked is None else _utc(revoked),
        limits=KeyLimits(data["requests_per_s"], data["concurrent_requests"], data["storage_bytes"]),
    )


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)  # SQLite forgets the zone
