"""A dry run: what a reward says on real samples, before an hour of GPU is spent on it.

A group is one request with several answers. A group whose rewards are all equal is dead: it teaches nothing.
"""

import math
import statistics
import time
from collections.abc import Sequence

from moontune.values.reward import ParseStatus, RewardSample, RewardSpec
from moontune.values.reward_report import GradedExample, RewardReport, SampleGroup
from services.reward.grader import grade_all

MAX_EXAMPLES = 5
SAME = 1e-9
"""Rewards closer than this count as equal."""


def dry_run(spec: RewardSpec | None, groups: Sequence[SampleGroup]) -> RewardReport:
    """Grade every answer of every group and describe the outcome; at least one group with one answer."""
    graded: list[GradedExample] = []
    started = time.perf_counter()
    for index, group in enumerate(groups):
        samples = [RewardSample(group.request, output, group.ground_truth) for output in group.outputs]
        for position, result in enumerate(grade_all(spec, samples, f"groups[{index}].outputs")):
            graded.append(GradedExample(index, position, result))
    seconds = (time.perf_counter() - started) / len(graded)
    scored = [one.result.reward for one in graded if one.result.reward is not None]
    failed = sum(one.result.status is ParseStatus.FAILED for one in graded)
    read = sum(one.result.status is ParseStatus.OK for one in graded)
    dead = _dead_groups(graded, len(groups))
    mean = statistics.fmean(scored) if scored else None
    std = statistics.pstdev(scored) if scored else None
    return RewardReport(
        samples=len(graded),
        parse_rate=read / len(graded),
        failed_rate=failed / len(graded),
        mean=mean,
        std=std,
        dead_group_share=dead / len(groups),
        seconds_per_grade=seconds,
        warnings=_warnings(read, failed, len(graded), mean, std, dead / len(groups)),
        examples=_examples(graded),
    )


def _dead_groups(graded: Sequence[GradedExample], groups: int) -> int:
    """Groups with fewer than two scores or with equal ones."""
    rewards: list[list[float]] = [[] for _ in range(groups)]
    for one in graded:
        if one.result.reward is not None:
            rewards[one.group_index].append(one.result.reward)
    return sum(not scores or max(scores) - min(scores) <= SAME for scores in rewards)


def _warnings(
    read: int, failed: int, samples: int, mean: float | None, std: float | None, dead_share: float
) -> tuple[str, ...]:
    """Sentences for a person; the order is by how much each would cost."""
    found: list[str] = []
    if mean is None or std is None:
        return ("Every grade failed: the examples say why.",)
    if failed:
        found.append(f"{failed} of {samples} grades failed and give no score; training leaves those answers out.")
    if std <= SAME:
        found.append(f"Every score is {mean:.3g}: a flat reward teaches nothing.")
    elif dead_share > 0.7:
        found.append(
            f"{dead_share:.0%} of the groups have equal scores and teach nothing: use a smoother reward, easier or "
            "harder samples, more rollouts or a higher temperature."
        )
    if read < 0.9 * (samples - failed):
        found.append(f"Only {read} of {samples} answers could be read; train the answer's form first.")
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
