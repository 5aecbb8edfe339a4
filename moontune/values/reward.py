"""What scores a rollout, and what a score is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from moontune.values.ground_truth import GroundTruth
from moontune.values.output import Output
from moontune.values.request import SkillRequest

Parameter = float | str | bool


@dataclass(frozen=True, slots=True)
class RewardComponent:
    """One named part of a reward.

    name: of a reward in the catalogue. weight: its factor in the mean.
    gate: when true the component does not add; unless it scores gate_threshold (None: the largest value it can), the
    whole reward is 0, or the least that the mean can be where that is below 0.
    normalise: map its value from its range in the catalogue to 0..1. clip_minimum, clip_maximum: then clip it, None
    does not. Both before the weight; a gate compares the value as it is.
    """

    name: str
    weight: float = 1.0
    gate: bool = False
    parameters: Mapping[str, Parameter] = field(default_factory=dict[str, Parameter])
    normalise: bool = False
    clip_minimum: float | None = None
    clip_maximum: float | None = None
    gate_threshold: float | None = None


@dataclass(frozen=True, slots=True)
class RewardSpec:
    """A composite: the weighted mean of its components, times its gates; one component alone is itself."""

    components: tuple[RewardComponent, ...]


class ParseStatus(StrEnum):
    """Whether the output could be read as an answer, and whether the grade itself worked."""

    OK = "ok"
    UNPARSED = "unparsed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class RewardSample:
    """What a reward sees: the request (its image by digest only), one output, and the ground truth.

    token_count: tokens that the policy decided for the output, thinking included; None where nobody counted.
    """

    request: SkillRequest
    output: Output
    ground_truth: GroundTruth
    token_count: int | None = None


@dataclass(frozen=True, slots=True)
class RewardResult:
    """A score.

    reward: None when the grade failed ("no score": it leaves the baseline and is never a silent 0).
    components: each component's own value before weights. detail: why, where the status is not OK.
    """

    reward: float | None
    components: Mapping[str, float] = field(default_factory=dict[str, float])
    status: ParseStatus = ParseStatus.OK
    detail: str = ""


@dataclass(frozen=True, slots=True)
class RewardParameter:
    """One parameter of a catalogue entry: kind is "number", "text" or "flag"."""

    name: str
    kind: str
    default: Parameter
    description: str


@dataclass(frozen=True, slots=True)
class RewardInfo:
    """A catalogue entry: skills it can score, formula and source, parameters, and the closed range of its values.

    parameters_schema: JSON schema of all parameters as text, "" where there is none (a plugin that gives none).
    labels: kinds of ground truth it reads, as the fields of GroundTruth are named, one of which must be there; () none.
    """

    name: str
    description: str
    skills: tuple[str, ...]
    parameters: tuple[RewardParameter, ...]
    minimum: float = 0.0
    maximum: float = 1.0
    parameters_schema: str = ""
    labels: tuple[str, ...] = ()
