"""Registered rewards in a database, by organisation, name and content digest."""

import hashlib
import re
import time
from dataclasses import dataclass

import sqlalchemy as sa

from moontune.errors import InvalidField, RequestIdReused, ResourceExhausted, RewardNotFound
from moontune.serving.database import for_reading
from moontune.values.reward import RewardInfo
from moontune.values.reward_definition import RewardDefinition
from moontune.wire.reward import reward_info_from_json, reward_info_to_json
from moontune.wire.reward_definition import reward_definition_from_json, reward_definition_to_json
from services.reward.tables import REGISTRATIONS, REWARDS

MAX_NAMES = 256
MAX_VERSIONS = 1000
REQUESTS_KEPT_S = 7 * 24 * 3600.0
"""How long a request id is remembered."""

NAME = re.compile(r"[a-z0-9_-]{1,64}")
DIGEST_DIGITS = 12
"""Least hexadecimal digits of a version in `name@version`."""


@dataclass(frozen=True, slots=True)
class Registered:
    """One version of a registered reward. version: `sha256:` and 64 hexadecimal digits of its definition."""

    definition: RewardDefinition
    version: str
    info: RewardInfo


class RegisteredRewards:
    """The registered rewards of every organisation. Methods block for milliseconds; call them in a thread."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._reading = for_reading(engine)

    def close(self) -> None:
        """Close the database."""
        self._engine.dispose()

    def register(
        self, organisation: str, request_id: str, definition: RewardDefinition, info: RewardInfo
    ) -> Registered:
        """Keep a definition and make its version the one that its name means.

        Raises:
            RequestIdReused: the id came with another definition.
            ResourceExhausted: too many names, or versions of this name.
        """
        document = reward_definition_to_json(definition)
        version = version_of(document)
        with self._engine.begin() as connection:
            if not _seen(connection, organisation, request_id, definition.name, version):
                _check_room(connection, organisation, definition.name)
                key = {"organisation": organisation, "name": definition.name, "version": version}
                now = time.time()
                connection.execute(sa.delete(REWARDS).where(*(REWARDS.c[name] == key[name] for name in key)))
                row = {**key, "definition": document, "info": reward_info_to_json(info), "registered_at": now}
                connection.execute(sa.insert(REWARDS).values(**row))
                connection.execute(sa.insert(REGISTRATIONS).values(**key, request_id=request_id, made_at=now))
        return Registered(definition, version, info)

    def find(self, organisation: str, reference: str) -> Registered:
        """By `name` (the version registered last) or `name@<12 or more digits of a version>`. RewardNotFound."""
        name, pinned, version = reference.partition("@")
        digits = version.removeprefix("sha256:")
        if pinned and not re.fullmatch(rf"[0-9a-f]{{{DIGEST_DIGITS},64}}", digits):
            allowed = f"name, or name@ with {DIGEST_DIGITS} to 64 hexadecimal digits of a version"
            raise InvalidField.of("reward.components.name", reference, allowed)
        query = (
            sa.select(REWARDS)
            .where(REWARDS.c.organisation == organisation, REWARDS.c.name == name)
            .order_by(REWARDS.c.registered_at.desc())
            .limit(1)
        )
        if pinned:
            query = query.where(REWARDS.c.version.startswith(f"sha256:{digits}", autoescape=True))
        with self._reading.connect() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise RewardNotFound(f"no reward {reference[:120]!r} is registered; ListRewards names those that are")
        return _registered(row)

    def listed(self, organisation: str) -> list[Registered]:
        """The present version of each name, by name."""
        newest = (
            sa.select(REWARDS.c.name, sa.func.max(REWARDS.c.registered_at).label("at"))
            .where(REWARDS.c.organisation == organisation)
            .group_by(REWARDS.c.name)
            .subquery()
        )
        query = (
            sa.select(REWARDS)
            .join(newest, (REWARDS.c.name == newest.c.name) & (REWARDS.c.registered_at == newest.c.at))
            .where(REWARDS.c.organisation == organisation)
            .order_by(REWARDS.c.name)
        )
        with self._reading.connect() as connection:
            return [_registered(row) for row in connection.execute(query)]


def version_of(document: str) -> str:
    """Content digest of a definition's JSON."""
    return f"sha256:{hashlib.sha256(document.encode()).hexdigest()}"


def _seen(connection: sa.Connection, organisation: str, request_id: str, name: str, version: str) -> bool:
    """Whether this very request was carried out; forgets old ones."""
    connection.execute(sa.delete(REGISTRATIONS).where(REGISTRATIONS.c.made_at < time.time() - REQUESTS_KEPT_S))
    key = (REGISTRATIONS.c.organisation == organisation) & (REGISTRATIONS.c.request_id == request_id)
    earlier = connection.execute(sa.select(REGISTRATIONS).where(key)).one_or_none()
    if earlier is None:
        return False
    if (earlier.name, earlier.version) != (name, version):
        raise RequestIdReused(f"the request id {request_id!r} came before with another reward; take a new id")
    return True


def _check_room(connection: sa.Connection, organisation: str, name: str) -> None:
    counts = sa.select(REWARDS.c.name, sa.func.count()).where(REWARDS.c.organisation == organisation)
    versions: dict[str, int] = {row[0]: row[1] for row in connection.execute(counts.group_by(REWARDS.c.name))}
    if versions.get(name, 0) >= MAX_VERSIONS:
        raise ResourceExhausted(f"{name} has {MAX_VERSIONS} versions, the most that are kept; take another name")
    if name not in versions and len(versions) >= MAX_NAMES:
        raise ResourceExhausted(f"the organisation has {MAX_NAMES} rewards, the most that are kept; use their names")


def _registered(row: sa.Row[tuple[object, ...]]) -> Registered:
    return Registered(reward_definition_from_json(row.definition), row.version, reward_info_from_json(row.info))
