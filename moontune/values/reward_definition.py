"""A reward that a user brings: sandboxed code, a container, a remote service or a judge."""

from dataclasses import dataclass
from enum import StrEnum

from moontune.values.skill import Skill


class CodeLanguage(StrEnum):
    """python: `score(sample)`. javascript: `reward(out, gt)`. Each returns a number or {reward, components, reason}."""

    PYTHON = "python"
    JAVASCRIPT = "javascript"


@dataclass(frozen=True, slots=True)
class UserCode:
    """Source for the sandbox, at most 256 KiB of UTF-8."""

    language: CodeLanguage
    source: str


@dataclass(frozen=True, slots=True)
class ContainerReward:
    """A container image by digest, answering samples line by line; command (): the image's own; timeout: a sample's."""

    image: str
    command: tuple[str, ...] = ()
    timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class RemoteReward:
    """A RewardPluginService that the user runs, at `host:port`."""

    endpoint: str
    timeout_s: float = 5.0
    max_concurrency: int = 8


@dataclass(frozen=True, slots=True)
class JudgeReward:
    """A judge behind an OpenAI-compatible endpoint ("" is our own inference service), told by a rubric."""

    model: str
    rubric: str
    endpoint: str = ""
    with_image: bool = False
    timeout_s: float = 30.0
    max_concurrency: int = 8


RewardSource = UserCode | ContainerReward | RemoteReward | JudgeReward


@dataclass(frozen=True, slots=True)
class RewardDefinition:
    """A name in the organisation's catalogue, the skills it can score, and how it is computed.

    minimum, maximum: the range that results have to be in; a remote reward describes its own.
    """

    name: str
    skills: tuple[Skill, ...]
    source: RewardSource
    description: str = ""
    minimum: float = 0.0
    maximum: float = 1.0
