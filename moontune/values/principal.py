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
class Principal:
    """A caller: its organisation owns every row it makes. internal: another moontune service on a caller's behalf."""

    organisation: str
    scopes: frozenset[Scope]
    key_id: str = ""
    internal: bool = False


LOCAL_PRINCIPAL = Principal(LOCAL_ORGANISATION, frozenset(Scope))
