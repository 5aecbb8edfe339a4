"""From a spec and a sample to a result: weighted mean of the components, times the gates.

    reward = [every gate scores 1] * sum_i w_i r_i / sum_i w_i        (no gates: the mean; only gates: 1 or 0)

A wrong spec or a sample that the spec cannot read is the caller's mistake and raises InvalidField or RewardNotFound.
A grade that breaks is "no score" for that sample alone: reward None, status FAILED, never a silent 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from moontune.errors import InvalidField, MoontuneError
from moontune.values.output import CaptionOutput, DetectOutput, PointOutput, QueryOutput
from moontune.values.reward import ParseStatus, RewardResult, RewardSample, RewardSpec
from moontune.values.skill import Skill
from services.reward.catalogue import default_spec, entry_named
from services.reward.catalogue.entry import Entry, Parameters

MAX_COMPONENTS = 16
_log = structlog.get_logger(__name__)
_OUTPUTS = {
    Skill.DETECT: DetectOutput,
    Skill.POINT: PointOutput,
    Skill.QUERY: QueryOutput,
    Skill.CAPTION: CaptionOutput,
}


@dataclass(frozen=True, slots=True)
class _Part:
    """A component ready to grade. label: its name in results; a repeated reward gets `name#2`, `name#3`."""

    label: str
    entry: Entry
    weight: float
    gate: bool
    parameters: Parameters


@dataclass(frozen=True, slots=True)
class Composite:
    """A checked spec."""

    parts: tuple[_Part, ...]

    @classmethod
    def of(cls, spec: RewardSpec, field: str = "reward") -> "Composite":
        """Check every name, weight and parameter of the spec."""
        if not 1 <= len(spec.components) <= MAX_COMPONENTS:
            raise InvalidField.of(f"{field}.components", len(spec.components), f"1 to {MAX_COMPONENTS} components")
        parts: list[_Part] = []
        for index, component in enumerate(spec.components):
            where = f"{field}.components[{index}]"
            entry = entry_named(component.name)
            if not (math.isfinite(component.weight) and 0.0 < component.weight <= 1e6):
                raise InvalidField.of(f"{where}.weight", component.weight, "more than 0 and at most 1e6")
            parameters = entry.complete(component.parameters, f"{where}.parameters")
            earlier = sum(part.entry.name == entry.name for part in parts)
            label = f"{entry.name}#{earlier + 1}" if earlier else entry.name
            parts.append(_Part(label, entry, component.weight, component.gate, parameters))
        return cls(tuple(parts))

    def grade(self, sample: RewardSample, field: str = "sample") -> RewardResult:
        """Grade one sample; InvalidField when it is not of the kind that the components read."""
        _check_output(sample, field)
        for part in self.parts:
            part.entry.check_sample(sample, field)
        values: dict[str, float] = {}
        for part in self.parts:
            try:
                values[part.label] = _finite(part, part.entry.grade(sample, part.parameters))
            except MoontuneError as error:
                return RewardResult(None, values, ParseStatus.FAILED, f"{part.label}: {error.message}")
            except Exception as error:  # one broken grade must not fail the batch
                _log.exception("grade failed", reward=part.label)
                return RewardResult(None, values, ParseStatus.FAILED, f"{part.label}: {type(error).__name__}")
        reward = self._combine(values)
        if _is_blank(sample):
            return RewardResult(reward, values, ParseStatus.UNPARSED, "the answer is empty")
        return RewardResult(reward, values)

    def _combine(self, values: dict[str, float]) -> float:
        if any(part.gate and values[part.label] < 1.0 for part in self.parts):
            return 0.0
        summed = [part for part in self.parts if not part.gate]
        if not summed:
            return 1.0
        if len(summed) == 1:
            return values[summed[0].label]
        total = math.fsum(part.weight for part in summed)
        return math.fsum(part.weight * values[part.label] for part in summed) / total


def grade_all(spec: RewardSpec | None, samples: Sequence[RewardSample], field: str = "samples") -> list[RewardResult]:
    """Grade samples in order; without a spec each by the default of its skill and labels."""
    if spec is not None and spec.components:
        composite = Composite.of(spec)
        return [composite.grade(sample, f"{field}[{index}]") for index, sample in enumerate(samples)]
    return [
        Composite.of(default_spec(sample.request.skill, sample.ground_truth)).grade(sample, f"{field}[{index}]")
        for index, sample in enumerate(samples)
    ]


def _check_output(sample: RewardSample, field: str) -> None:
    expected = _OUTPUTS[sample.request.skill]
    if type(sample.output) is not expected:
        allowed = f"a {expected.__name__}, as the request's skill is {sample.request.skill}"
        raise InvalidField.of(f"{field}.output", type(sample.output).__name__, allowed)


def _finite(part: _Part, value: float) -> float:
    if not math.isfinite(value):
        raise InvalidField.of("reward", value, "a finite number")
    return min(max(value, part.entry.minimum), part.entry.maximum)


def _is_blank(sample: RewardSample) -> bool:
    if isinstance(sample.output, QueryOutput):
        return not sample.output.answer.strip()
    return isinstance(sample.output, CaptionOutput) and not sample.output.caption.strip()
