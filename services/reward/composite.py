"""A composite: the weighted mean of its components, times its gates.

    t(v) = clip(normalise(v))                      per component, both where asked for
    reward = sum_i w_i t_i(v_i) / sum_i w_i        where every gate is open (no gates: always; only gates: 1)
             min(0, least value of that mean)      where one is shut (only gates: 0)

A shut gate is never better than any sum: otherwise a negative component would make breaking the gate pay.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from moontune.errors import FieldViolation, InvalidField, RewardNotFound
from moontune.values.reward import Parameter, ParseStatus, RewardComponent, RewardResult, RewardSample, RewardSpec
from services.reward.batch_reward import BatchReward
from services.reward.catalogue.entry import AnyEntry, Entry
from services.reward.catalogue.parameters import Parameters

MAX_COMPONENTS = 16
Lookup = Callable[[str], AnyEntry | BatchReward]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one component says of one sample.

    value: None is no score. unread: why the answer could not be read, "" where it could. failed: why there is no score.
    said: what the reward itself gives as its reason, whatever the score. inner: its own components, where it has some.
    """

    value: float | None
    unread: str = ""
    failed: str = ""
    said: str = ""
    inner: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """An entry of the catalogue with its parameters."""

    entry: AnyEntry
    parameters: Parameters


@dataclass(frozen=True, slots=True)
class Outside:
    """A reward that is asked for batches, with its parameters."""

    reward: BatchReward
    parameters: Mapping[str, Parameter]


@dataclass(frozen=True, slots=True)
class Part:
    """A component ready to grade. label: its name in results; a repeated reward gets `name#2`, `name#3`.

    minimum, maximum: of its values before normalising and clipping.
    """

    label: str
    grades: BuiltIn | Outside
    component: RewardComponent
    minimum: float
    maximum: float

    def transformed(self, value: float) -> float:
        """Normalised and clipped, as asked for."""
        component = self.component
        if component.normalise and self.maximum > self.minimum:
            value = min(1.0, max(0.0, (value - self.minimum) / (self.maximum - self.minimum)))
        if component.clip_minimum is not None:
            value = max(value, component.clip_minimum)
        return value if component.clip_maximum is None else min(value, component.clip_maximum)

    def is_open(self, value: float) -> bool:
        """Whether this gate is open at a value as graded."""
        threshold = self.component.gate_threshold
        return value >= (self.maximum if threshold is None else threshold) - 1e-12


@dataclass(frozen=True, slots=True)
class Composite:
    """A checked spec."""

    parts: tuple[Part, ...]

    @classmethod
    def of(cls, spec: RewardSpec, lookup: Lookup, field: str = "reward") -> "Composite":
        """Check every name, weight, range and parameter of the spec; InvalidField or RewardNotFound."""
        if not 1 <= len(spec.components) <= MAX_COMPONENTS:
            raise InvalidField.of(f"{field}.components", len(spec.components), f"1 to {MAX_COMPONENTS} components")
        parts: list[Part] = []
        for index, component in enumerate(spec.components):
            earlier = sum(part.component.name == component.name for part in parts)
            label = f"{component.name}#{earlier + 1}" if earlier else component.name
            parts.append(_part(label, component, lookup, f"{field}.components[{index}]"))
        return cls(tuple(parts))

    @property
    def bounds(self) -> tuple[float, float]:
        """Least and largest reward that the composite can give."""
        low, high = self._mean([part.minimum for part in self.parts]), self._mean([part.maximum for part in self.parts])
        return (min(0.0, low), high) if any(part.component.gate for part in self.parts) else (low, high)

    def check_sample(self, sample: RewardSample, field: str) -> None:
        """Raise InvalidField when a component cannot read samples of this kind."""
        for part in self.parts:
            if isinstance(part.grades, BuiltIn):
                part.grades.entry.check_sample(sample, field)
            elif str(sample.request.skill) not in part.grades.reward.info.skills:
                allowed = f"{' or '.join(part.grades.reward.info.skills)} for {part.component.name}"
                raise InvalidField.of(f"{field}.request.skill", str(sample.request.skill), allowed)

    def result(self, outcomes: Sequence[Outcome]) -> RewardResult:
        """One sample's result from what each part said."""
        values: dict[str, float] = {}
        for part, outcome in zip(self.parts, outcomes, strict=True):
            if outcome.value is not None:
                values[part.label] = outcome.value
                values |= {f"{part.label}/{name}": inner for name, inner in (outcome.inner or {}).items()}
        for part, outcome in zip(self.parts, outcomes, strict=True):
            if outcome.value is None:
                return RewardResult(None, values, ParseStatus.FAILED, f"{part.label}: {outcome.failed}"[:2000])
        reward = self._combine([values[part.label] for part in self.parts])
        for part, outcome in zip(self.parts, outcomes, strict=True):
            if outcome.unread:
                return RewardResult(reward, values, ParseStatus.UNPARSED, f"{part.label}: {outcome.unread}"[:2000])
        said = "; ".join(outcome.said for outcome in outcomes if outcome.said)
        return RewardResult(reward, values, detail=said[:2000])

    def _combine(self, values: Sequence[float]) -> float:
        gates = [(part, value) for part, value in zip(self.parts, values, strict=True) if part.component.gate]
        if all(part.is_open(value) for part, value in gates):
            return self._mean(values)
        return 0.0 if len(gates) == len(self.parts) else self.bounds[0]

    def _mean(self, values: Sequence[float]) -> float:
        """Weighted mean of the parts that add; 1 where none does."""
        summed = [(part, value) for part, value in zip(self.parts, values, strict=True) if not part.component.gate]
        if not summed:
            return 1.0
        if len(summed) == 1:
            return summed[0][0].transformed(summed[0][1])
        total = math.fsum(part.component.weight for part, _ in summed)
        return math.fsum(part.component.weight * part.transformed(value) for part, value in summed) / total


def _part(label: str, component: RewardComponent, lookup: Lookup, field: str) -> Part:
    try:
        reward = lookup(component.name)
    except RewardNotFound as error:
        where = f"{field}.name"
        violation = FieldViolation(where, f"{where} is {component.name[:80]!r}; {error.message}")
        raise RewardNotFound(violation.description, metadata={"field": where}, violations=[violation]) from error
    _check_numbers(component, field)
    if isinstance(reward, Entry):
        parameters = reward.complete(component.parameters, f"{field}.parameters")
        return Part(label, BuiltIn(reward, parameters), component, reward.minimum, reward.maximum)
    info = reward.info
    return Part(label, Outside(reward, component.parameters), component, info.minimum, info.maximum)


def _check_numbers(component: RewardComponent, field: str) -> None:
    if not (math.isfinite(component.weight) and 0.0 < component.weight <= 1e6):
        raise InvalidField.of(f"{field}.weight", component.weight, "more than 0 and at most 1e6")
    for name in ("clip_minimum", "clip_maximum", "gate_threshold"):
        value: float | None = getattr(component, name)
        if value is not None and not (math.isfinite(value) and abs(value) <= 1e6):
            raise InvalidField.of(f"{field}.{name}", value, "a number from -1e6 to 1e6")
    low, high = component.clip_minimum, component.clip_maximum
    if low is not None and high is not None and low >= high:
        raise InvalidField.of(f"{field}.clip_minimum", low, f"less than clip_maximum, which is {high!r}")
    if component.gate_threshold is not None and not component.gate:
        raise InvalidField.of(f"{field}.gate_threshold", component.gate_threshold, "none where gate is false")
