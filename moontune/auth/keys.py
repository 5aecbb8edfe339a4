"""API keys in a database: made, listed, revoked, looked up. Only their SHA-256 is stored.

A key is `mt_` and 43 random characters (256 bits); at that length a plain SHA-256 cannot be searched, so no slow
hash is needed. The table is migrated when the store opens; several services may share one database.
"""

import hashlib
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
from ulid import ULID

from moontune.auth.database import for_reading, open_database
from moontune.errors import InvalidField, NotFound
from moontune.values.principal import Principal, Scope

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
)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A stored key, without its secret. name: what its maker calls it. revoked_at: None while it works."""

    id: str
    organisation: str
    name: str
    scopes: frozenset[Scope]
    created_at: datetime
    revoked_at: datetime | None = None


class KeyStore:
    """The keys of one database URL. Its methods block; call them in a thread from asyncio."""

    def __init__(self, url: str) -> None:
        """Open and migrate. url: SQLAlchemy's, `sqlite:///data/gateway.db` or `postgresql+psycopg://...`."""
        self._engine = open_database(url, MIGRATIONS, version_table="auth_version")
        self._reads = for_reading(self._engine)

    def create(self, organisation: str, name: str = "", scopes: Iterable[Scope] = tuple(Scope)) -> tuple[ApiKey, str]:
        """Make a key. Returns it and its secret, which is shown this once and never again."""
        if not _ORGANISATION.fullmatch(organisation):
            raise InvalidField.of("organisation", organisation, "1 to 64 ASCII letters, digits, - and _")
        if len(name) > 128:
            raise InvalidField.of("name", name, "at most 128 characters")
        key = ApiKey(str(ULID()), organisation, name, frozenset(scopes), datetime.now(UTC))
        if not key.scopes:
            raise InvalidField.of("scopes", [], "one or more of " + ", ".join(Scope))
        secret = "mt_" + secrets.token_urlsafe(32)
        with self._engine.begin() as connection:
            connection.execute(
                _keys.insert().values(
                    id=key.id,
                    sha256=_digest(secret),
                    organisation=organisation,
                    name=name,
                    scopes=" ".join(sorted(key.scopes)),
                    created_at=key.created_at,
                )
            )
        return key, secret

    def list(self, organisation: str | None = None) -> list[ApiKey]:
        """Every key (of an organisation), revoked ones included, oldest first."""
        query = sa.select(_keys).order_by(_keys.c.id)
        if organisation is not None:
            query = query.where(_keys.c.organisation == organisation)
        with self._reads.connect() as connection:
            return [_key(row) for row in connection.execute(query).mappings()]

    def revoke(self, key_id: str) -> ApiKey:
        """End a key; again is harmless. Services notice within `authenticator.CACHE_S` seconds."""
        where = _keys.c.id == key_id
        with self._engine.begin() as connection:
            changed = _keys.update().where(where, _keys.c.revoked_at.is_(None)).values(revoked_at=datetime.now(UTC))
            connection.execute(changed)
            row = connection.execute(sa.select(_keys).where(where)).mappings().one_or_none()
        if row is None:
            raise NotFound(f"no API key has the id {key_id!r}", metadata={"id": key_id})
        return _key(row)

    def any(self) -> bool:
        """Whether a key was ever made; revoked ones count, so that revoking the last one does not open the door."""
        with self._reads.connect() as connection:
            return connection.execute(sa.select(_keys.c.id).limit(1)).first() is not None

    def lookup(self, secret: str) -> Principal | None:
        """The principal of a key that works; None for an unknown or revoked one."""
        query = sa.select(_keys).where(_keys.c.sha256 == _digest(secret), _keys.c.revoked_at.is_(None))
        with self._reads.connect() as connection:
            row = connection.execute(query).mappings().one_or_none()
        if row is None:
            return None
        key = _key(row)
        return Principal(key.organisation, key.scopes, key.id)

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()


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
    )


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)  # SQLite forgets the zone
