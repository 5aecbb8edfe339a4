"""From a spec and samples to results.

A wrong spec or a sample that the spec cannot read is the caller's mistake and raises InvalidField or RewardNotFound.
A grade that breaks is "no score" for that sample alone: reward None, status FAILED, never a silent 0.
"""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import structlog

from moontune.errors import ImageUnknown, InvalidField, MoontuneError
from moontune.values.output import CaptionOutput, DetectOutput, PointOutput, QueryOutput
from moontune.values.reward import ParseStatus, RewardResult, RewardSample, RewardSpec
from moontune.values.skill import Skill
from services.reward.catalogue import default_spec, entry_named
from services.reward.composite import BuiltIn, Composite, Lookup, Outcome, Outside
from services.reward.reading.unreadable import Unreadable

_log = structlog.get_logger(__name__)
_OUTPUTS = {
    Skill.DETECT: DetectOutput,
    Skill.POINT: PointOutput,
    Skill.QUERY: QueryOutput,
    Skill.CAPTION: CaptionOutput,
}


Place = Callable[[int], str]


def _in_samples(index: int) -> str:
    return f"samples[{index}]"


async def grade_all(
    spec: RewardSpec | None, samples: Sequence[RewardSample], lookup: Lookup = entry_named, place: Place = _in_samples
) -> list[RewardResult]:
    """Grade samples in order; without a spec each by the default of its skill and labels.

    place: of a sample in the request, for errors. Built-ins run in a thread: the event loop stays free. Rewards from
    outside are asked once, for all samples.
    """
    if spec is not None and spec.components:
        return await _grade(Composite.of(spec, lookup), samples, [place(index) for index in range(len(samples))])
    by_default: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        name = default_spec(sample.request.skill, sample.ground_truth).components[0].name
        by_default.setdefault(name, []).append(index)
    results: dict[int, RewardResult] = {}
    for indices in by_default.values():
        first = samples[indices[0]]
        composite = Composite.of(default_spec(first.request.skill, first.ground_truth), lookup)
        graded = await _grade(composite, [samples[index] for index in indices], [place(index) for index in indices])
        results |= zip(indices, graded, strict=True)
    return [results[index] for index in range(len(samples))]


def grade_here(composite: Composite, samples: Sequence[RewardSample]) -> list[RewardResult]:
    """Grade by built-ins alone, in this thread."""
    places = [_in_samples(index) for index in range(len(samples))]
    return _results(composite, samples, _built_in_outcomes(composite, samples, places))


async def _grade(composite: Composite, samples: Sequence[RewardSample], places: Sequence[str]) -> list[RewardResult]:
    outcomes = await asyncio.to_thread(_built_in_outcomes, composite, samples, places)
    outside = [part for part in composite.parts if isinstance(part.grades, Outside)]
    asked = await asyncio.gather(*(_ask(part.grades, samples) for part in outside if isinstance(part.grades, Outside)))
    outcomes |= {part.label: answered for part, answered in zip(outside, asked, strict=True)}
    return await asyncio.to_thread(_results, composite, samples, outcomes)


def _built_in_outcomes(
    composite: Composite, samples: Sequence[RewardSample], places: Sequence[str]
) -> dict[str, list[Outcome]]:
    for place, sample in zip(places, samples, strict=True):
        _check_output(sample, place)
        composite.check_sample(sample, place)
    return {
        part.label: [_outcome(part.grades, sample) for sample in samples]
        for part in composite.parts
        if isinstance(part.grades, BuiltIn)
    }


def _outcome(built_in: BuiltIn, sample: RewardSample) -> Outcome:
    entry = built_in.entry
    try:
        value = entry.grade(sample, built_in.parameters)
    except Unreadable as error:
        return Outcome(entry.minimum, unread=str(error))
    except MoontuneError as error:
        return Outcome(None, failed=error.message)
    except Exception as error:  # one broken grade must not fail the batch
        _log.exception("grade failed", reward=entry.name)
        return Outcome(None, failed=type(error).__name__)
    if not math.isfinite(value):
        return Outcome(None, failed=f"the grade is {value}; allowed: a finite number")
    return Outcome(min(max(value, entry.minimum), entry.maximum))


async def _ask(outside: Outside, samples: Sequence[RewardSample]) -> list[Outcome]:
    """What a reward from outside says; when it breaks as a whole, no sample has a score."""
    try:
        results = await outside.reward.score(samples, outside.parameters)
    except ImageUnknown:  # the caller has to send it, and then the whole batch again
        raise
    except MoontuneError as error:
        return [Outcome(None, failed=error.message)] * len(samples)
    if len(results) != len(samples):
        return [Outcome(None, failed=f"{len(results)} results for {len(samples)} samples")] * len(samples)
    return [_outside_outcome(result) for result in results]


def _outside_outcome(result: RewardResult) -> Outcome:
    if result.reward is None:
        return Outcome(None, failed=result.detail or "no reason given", inner=result.components)
    if not all(math.isfinite(value) for value in (result.reward, *result.components.values())):
        return Outcome(None, failed="a number that is not finite")
    unread = (result.detail or "not read") if result.status is ParseStatus.UNPARSED else ""
    return Outcome(result.reward, unread=unread, said=result.detail, inner=result.components)


def _results(
    composite: Composite, samples: Sequence[RewardSample], outcomes: Mapping[str, Sequence[Outcome]]
) -> list[RewardResult]:
    columns = [outcomes[part.label] for part in composite.parts]
    return [
        _marked_blank(sample, composite.result(row))
        for sample, row in zip(samples, zip(*columns, strict=True), strict=True)
    ]


def _check_output(sample: RewardSample, field: str) -> None:
    expected = _OUTPUTS[sample.request.skill]
    if type(sample.output) is not expected:
        allowed = f"a {expected.__name__}, as the request's skill is {sample.request.skill}"
        raise InvalidField.of(f"{field}.output", type(sample.output).__name__, allowed)


def _marked_blank(sample: RewardSample, result: RewardResult) -> RewardResult:
    """An empty text cannot be read as an answer, whatever it earns."""
    output = sample.output
    text = output.answer if isinstance(output, QueryOutput) else None
    text = output.caption if isinstance(output, CaptionOutput) else text
    if text is None or text.strip() or result.status is not ParseStatus.OK:
        return result
    return replace(result, status=ParseStatus.UNPARSED, detail="the answer is empty")
