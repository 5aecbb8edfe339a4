"""Who is calling."""

from dataclasses import dataclass
from enum import StrEnum

LOCAL_ORGANISATION = "local"
"""The organisation of every caller while no keys are configured."""


class Scope(StrEnum):
    """What a key may do: read resources, run inference, train, or administer keys."""

    READ = "read"
    INFER = "infer"
    TRAIN = "train"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What a key may use; None is no limit. storage_bytes: of what its organisation stores."""

    requests_per_s: float | None = None
    concurrent_requests: int | None = None
    storage_bytes: int | None = None


NO_LIMITS = KeyLimits()


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller: its organisation owns every row it makes. internal: another moontune service on a caller's behalf."""

    organisation: str
    scopes: frozenset[Scope]
    key_id: str = ""
    internal: bool = False
    limits: KeyLimits = NO_LIMITS


LOCAL_PRINCIPAL = Principal(LOCAL_ORGANISATION, frozenset(Scope))
