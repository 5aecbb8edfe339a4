"""How user code is kept in."""

from dataclasses import dataclass
from enum import StrEnum


class SandboxProfile(StrEnum):
    """pod: limits, seccomp and Landlock. host: the same plus bubblewrap. trusted: none, single user on loopback."""

    POD = "pod"
    HOST = "host"
    TRUSTED = "trusted"


@dataclass(frozen=True, slots=True)
class SandboxLayer:
    """One layer: whether the profile demands it and whether it works on this machine. detail: why not, or version."""

    name: str
    required: bool
    active: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class SandboxStatus:
    """Whether and how a service runs user code; languages that can run."""

    profile: SandboxProfile
    user_code_allowed: bool
    layers: tuple[SandboxLayer, ...] = ()
    languages: tuple[str, ...] = ()
