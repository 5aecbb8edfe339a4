"""What a catalogue entry is: a pure, bounded function of one sample, with its parameters and their ranges.

An entry never changes the sample (values are frozen) and knows nothing of groups, weights or the wire.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from moontune.errors import InvalidField
from moontune.values.reward import Parameter, RewardInfo, RewardParameter, RewardSample
from moontune.values.skill import Skill


class Label(StrEnum):
    """Which ground truth an entry reads; the names of `GroundTruth`'s fields."""

    BOXES = "boxes"
    POINTS = "points"
    ANSWERS = "answers"


@dataclass(frozen=True, slots=True)
class NumberParameter:
    """A number in [minimum, maximum]."""

    name: str
    default: float
    minimum: float
    maximum: float
    description: str

    def check(self, value: Parameter, field: str) -> float:
        """The value as a float, or InvalidField that names the range."""
        allowed = f"a number from {self.minimum:g} to {self.maximum:g}"
        if isinstance(value, bool | str):
            raise InvalidField.of(field, value, allowed)
        if not (math.isfinite(value) and self.minimum <= value <= self.maximum):
            raise InvalidField.of(field, value, allowed)
        return float(value)

    def info(self) -> RewardParameter:
        """As listed."""
        described = f"{self.description}; {self.minimum:g} to {self.maximum:g}"
        return RewardParameter(self.name, "number", self.default, described)


Parameters = Mapping[str, float]
Grade = Callable[[RewardSample, Parameters], float]


@dataclass(frozen=True, slots=True)
class Entry:
    """A reward of the catalogue.

    skills: whose outputs it reads. label: the ground truth it needs. grade: sample and complete parameters to a value
    in [minimum, maximum]. description: formula, empty rules, source.
    """

    name: str
    description: str
    skills: tuple[Skill, ...]
    label: Label
    grade: Grade
    parameters: tuple[NumberParameter, ...] = ()
    minimum: float = 0.0
    maximum: float = 1.0

    def complete(self, given: Mapping[str, Parameter], field: str) -> Parameters:
        """The given parameters checked, the others at their defaults; InvalidField for an unknown one."""
        known = {parameter.name: parameter for parameter in self.parameters}
        for name in given:
            if name not in known:
                raise InvalidField.of(f"{field}.{name}", given[name], _names(known, self.name))
        return {
            name: parameter.check(given.get(name, parameter.default), f"{field}.{name}")
            for name, parameter in known.items()
        }

    def check_sample(self, sample: RewardSample, field: str) -> None:
        """Raise InvalidField when the sample's skill or ground truth is not what this entry reads."""
        if sample.request.skill not in self.skills:
            allowed = " or ".join(self.skills)
            raise InvalidField.of(f"{field}.request.skill", str(sample.request.skill), f"{allowed} for {self.name}")
        if getattr(sample.ground_truth, self.label) is None:
            raise InvalidField.of(f"{field}.ground_truth.{self.label}", None, f"labels; {self.name} reads them")

    def info(self) -> RewardInfo:
        """As listed by ListRewards."""
        return RewardInfo(
            name=self.name,
            description=self.description,
            skills=tuple(str(skill) for skill in self.skills),
            parameters=tuple(parameter.info() for parameter in self.parameters),
            minimum=self.minimum,
            maximum=self.maximum,
        )


def _names(known: Mapping[str, NumberParameter], reward: str) -> str:
    return f"parameters of {reward}: " + (", ".join(known) or "none")
