"""What a catalogue entry is: a pure, bounded function of one sample, with its parameters and their ranges.

An entry never changes the sample (values are frozen) and knows nothing of groups, weights or the wire.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

from moontune.errors import InvalidField
from moontune.values.reward import Parameter, RewardInfo, RewardSample
from moontune.values.skill import Skill
from services.reward.catalogue.parameters import Parameters

P = TypeVar("P", bound=Parameters)


class Label(StrEnum):
    """Which ground truth an entry reads; the names of `GroundTruth`'s fields."""

    BOXES = "boxes"
    POINTS = "points"
    ANSWERS = "answers"
    MASKS = "masks"
    POSES = "poses"


@dataclass(frozen=True, slots=True)
class Entry(Generic[P]):
    """A reward of the catalogue.

    formula: what it computes, with its rule for absent targets. source: who defined or used it. beware: how it has
    been gamed, or what it does not see. skills: whose outputs it reads. labels: kinds of ground truth, one of which
    must be there; () needs none. grade: sample and parameters to a value in [minimum, maximum]; raises Unreadable.
    """

    name: str
    formula: str
    source: str
    skills: tuple[Skill, ...]
    labels: tuple[Label, ...]
    parameters: type[P]
    grade: Callable[[RewardSample, P], float]
    beware: str = ""
    minimum: float = 0.0
    maximum: float = 1.0
    needs_token_count: bool = False

    def complete(self, given: Mapping[str, Parameter], field: str) -> P:
        """The given parameters checked, the others at their defaults; InvalidField for an unknown one."""
        return self.parameters.read(given, field, self.name)

    def check_sample(self, sample: RewardSample, field: str) -> None:
        """Raise InvalidField when the sample's skill or ground truth is not what this entry reads."""
        if sample.request.skill not in self.skills:
            allowed = " or ".join(self.skills)
            raise InvalidField.of(f"{field}.request.skill", str(sample.request.skill), f"{allowed} for {self.name}")
        if self.labels and not any(getattr(sample.ground_truth, label) is not None for label in self.labels):
            given = ", ".join(sample.ground_truth.labels) or None
            raise InvalidField.of(f"{field}.ground_truth", given, f"{' or '.join(self.labels)} for {self.name}")
        if self.needs_token_count and sample.token_count is None:
            allowed = f"the number of tokens, which {self.name} measures; rollouts bring it"
            raise InvalidField.of(f"{field}.token_count", None, allowed)

    @property
    def description(self) -> str:
        """Formula, source and trap in a row."""
        trap = f" Beware: {self.beware}" if self.beware else ""
        return f"{self.formula} Source: {self.source}.{trap}"

    def info(self) -> RewardInfo:
        """As listed by ListRewards."""
        return RewardInfo(
            name=self.name,
            description=self.description,
            skills=tuple(str(skill) for skill in self.skills),
            parameters=self.parameters.listed(),
            minimum=self.minimum,
            maximum=self.maximum,
            parameters_schema=self.parameters.schema_text(),
            labels=tuple(str(label) for label in self.labels),
        )


AnyEntry = Entry[Any]
