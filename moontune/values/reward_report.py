"""What a dry run of a reward is given and what it finds."""

from dataclasses import dataclass

from moontune.values.ground_truth import GroundTruth
from moontune.values.output import Output
from moontune.values.request import SkillRequest
from moontune.values.reward import RewardResult


@dataclass(frozen=True, slots=True)
class SampleGroup:
    """One request with several answers to grade against one ground truth.

    token_counts: of each output, as in RewardSample; () where nobody counted.
    """

    request: SkillRequest
    outputs: tuple[Output, ...]
    ground_truth: GroundTruth
    token_counts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class GradedExample:
    """One graded sample, by its group's index and its output's index in the group."""

    group_index: int
    output_index: int
    result: RewardResult


@dataclass(frozen=True, slots=True)
class RewardProbe:
    """What a reward pays on average for made-up answers to every request; mean None where no grade worked."""

    name: str
    description: str
    mean: float | None


@dataclass(frozen=True, slots=True)
class RewardReport:
    """Figures of a dry run; rates and shares are in 0..1, mean and std None where nothing got a reward.

    dead_group_share: of groups whose rewards are all equal. warnings: what looks flat, broken or easy to game.
    probes: answers that nobody should want (silence, boxes everywhere, ...), and the ground truth itself.
    """

    samples: int
    parse_rate: float
    failed_rate: float
    mean: float | None
    std: float | None
    dead_group_share: float
    seconds_per_grade: float
    warnings: tuple[str, ...] = ()
    examples: tuple[GradedExample, ...] = ()
    probes: tuple[RewardProbe, ...] = ()
