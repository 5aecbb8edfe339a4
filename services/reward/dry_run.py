"""A dry run: what a reward says on real samples, before an hour of GPU is spent on it.

A group is one request with several answers. A group whose rewards are all equal is dead: it teaches nothing.
"""

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from moontune.values.reward import ParseStatus, RewardSample, RewardSpec
from moontune.values.reward_report import GradedExample, RewardReport, SampleGroup
from services.reward.catalogue import default_spec, entry_named
from services.reward.composite import Composite, Lookup
from services.reward.grader import grade_all
from services.reward.probes import Probed, probe

MAX_EXAMPLES = 5
SAME = 1e-9
"""Rewards closer than this count as equal."""
SATURATED = 0.95
"""Share of the range above which a mean leaves little to learn."""


async def dry_run(spec: RewardSpec | None, groups: Sequence[SampleGroup], lookup: Lookup = entry_named) -> RewardReport:
    """Grade every answer of every group, try made-up answers, and describe the outcome; at least one group."""
    samples = [sample for group in groups for sample in samples_of(group)]
    places = [(index, place) for index, group in enumerate(groups) for place in range(len(group.outputs))]
    started = time.perf_counter()
    results = await grade_all(spec, samples, lookup, lambda index: "groups[{}].outputs[{}]".format(*places[index]))
    seconds = (time.perf_counter() - started) / len(results)
    graded = [GradedExample(*place, result) for place, result in zip(places, results, strict=True)]
    probed = await probe(spec, groups, graded, lookup)
    figures = _Figures.of(graded, len(groups))
    return RewardReport(
        samples=figures.samples,
        parse_rate=figures.read / figures.samples,
        failed_rate=figures.failed / figures.samples,
        mean=figures.mean,
        std=figures.std,
        dead_group_share=figures.dead_share,
        seconds_per_grade=seconds,
        warnings=_warnings(figures, _range(spec, groups, lookup), probed),
        examples=_examples(graded),
        probes=tuple(one.probe for one in probed),
    )


def samples_of(group: SampleGroup) -> list[RewardSample]:
    """A group's answers, each as a sample."""
    counts = group.token_counts or [None] * len(group.outputs)
    return [
        RewardSample(group.request, output, group.ground_truth, count)
        for output, count in zip(group.outputs, counts, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _Figures:
    """Counts and moments of a dry run; mean and std None where nothing got a reward."""

    samples: int
    read: int
    failed: int
    mean: float | None
    std: float | None
    dead_share: float

    @classmethod
    def of(cls, graded: Sequence[GradedExample], groups: int) -> "_Figures":
        scored = [one.result.reward for one in graded if one.result.reward is not None]
        return cls(
            samples=len(graded),
            read=sum(one.result.status is ParseStatus.OK for one in graded),
            failed=sum(one.result.status is ParseStatus.FAILED for one in graded),
            mean=statistics.fmean(scored) if scored else None,
            std=statistics.pstdev(scored) if scored else None,
            dead_share=_dead_groups(graded, groups) / groups,
        )


def _range(spec: RewardSpec | None, groups: Sequence[SampleGroup], lookup: Lookup) -> tuple[float, float]:
    used = spec or default_spec(groups[0].request.skill, groups[0].ground_truth)
    return Composite.of(used, lookup).bounds


def _dead_groups(graded: Sequence[GradedExample], groups: int) -> int:
    """Groups with fewer than two scores or with equal ones."""
    rewards: list[list[float]] = [[] for _ in range(groups)]
    for one in graded:
        if one.result.reward is not None:
            rewards[one.group_index].append(one.result.reward)
    return sum(not scores or max(scores) - min(scores) <= SAME for scores in rewards)


def _warnings(figures: _Figures, bounds: tuple[float, float], probed: Sequence[Probed]) -> tuple[str, ...]:
    """Sentences for a person; the order is by how much each would cost."""
    found: list[str] = []
    mean, std = figures.mean, figures.std
    if mean is None or std is None:
        return ("Every grade failed: the examples say why.",)
    if figures.failed:
        found.append(
            f"{figures.failed} of {figures.samples} grades failed and give no score; training leaves those answers out."
        )
    if std <= SAME:
        found.append(f"Every score is {mean:.3g}: a flat reward teaches nothing.")
    elif figures.dead_share > 0.7:
        found.append(
            f"{figures.dead_share:.0%} of the groups have equal scores and teach nothing: use a smoother reward, "
            "easier or harder samples, more rollouts or a higher temperature."
        )
    low, high = bounds
    if high > low and math.isfinite(high - low) and (mean - low) / (high - low) > SATURATED:
        found.append(f"The mean is {mean:.3g} of at most {high:.3g}: the reward is saturated, little is left to learn.")
    if figures.read < 0.9 * (figures.samples - figures.failed):
        found.append(f"Only {figures.read} of {figures.samples} answers could be read; train the answer's form first.")
    found += [one.warning for one in probed if one.warning]
    return tuple(found)


def _examples(graded: Sequence[GradedExample]) -> tuple[GradedExample, ...]:
    """Failed ones first (at most two), then scores spread evenly from the least to the largest."""
    failed = [one for one in graded if one.result.reward is None][:2]
    ranked = sorted((one for one in graded if one.result.reward is not None), key=lambda one: one.result.reward or 0.0)
    room = MAX_EXAMPLES - len(failed)
    if len(ranked) <= room:
        return (*failed, *ranked)
    places = [math.floor(index * (len(ranked) - 1) / (room - 1)) for index in range(room)]
    return (*failed, *(ranked[place] for place in places))
