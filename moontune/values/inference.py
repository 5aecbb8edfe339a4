"""Requests to the inference service, its answers, and the pieces in which they stream."""

from dataclasses import dataclass, field
from datetime import datetime

from moontune.values.geometry import Box, Point
from moontune.values.model_ref import PolicyVersion
from moontune.values.output import Output
from moontune.values.request import SkillRequest
from moontune.values.rollout import FinishReason
from moontune.values.skill import Skill


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """A model string, what to ask it, and the sampler's seed (None: the service draws one)."""

    model: str
    request: SkillRequest
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer took: positions of the prompt (image positions with it), decisions, and seconds by phase."""

    input_tokens: int = 0
    output_tokens: int = 0
    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0


@dataclass(frozen=True, slots=True)
class InferenceResult:
    """An answer and the exact weights it came from."""

    output: Output
    policy: PolicyVersion
    finish_reason: FinishReason
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next piece of an answer's text, or of its reasoning."""

    text: str
    reasoning: bool = False


InferenceEvent = TextDelta | Point | Box | InferenceResult
"""One message of a streamed answer; the result is the last and holds everything."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Something that can be named as a model. created_at: when it was saved; None for the base."""

    name: str
    policy: PolicyVersion
    skills: tuple[Skill, ...]
    created_at: datetime | None = None
