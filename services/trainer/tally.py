"""What the groups of a step were like, counted before any forward pass; dropped groups count too."""

import math
from dataclasses import dataclass, field

from moontune.values.rollout import FinishReason
from moontune.values.training import RlGroup, SftGroup, Target
from services.trainer.prepared import PreparedGroup


@dataclass(slots=True)
class Tally:
    """Sums over groups and rollouts; `health.batch_figures` turns them into metrics."""

    rewards: list[float] = field(default_factory=list[float])
    within_std: list[float] = field(default_factory=list[float])
    advantages: list[float] = field(default_factory=list[float])
    lags: list[int] = field(default_factory=list[int])
    rl_groups: int = 0
    sft_groups: int = 0
    dead_groups: int = 0
    all_max_groups: int = 0
    all_min_groups: int = 0
    stale_groups: int = 0
    unverified_groups: int = 0
    injected_groups: int = 0
    rollouts: int = 0
    unscored: int = 0
    truncated: int = 0
    overlong: int = 0
    decisions: int = 0
    objects: int = 0
    object_rollouts: int = 0
    labels: int = 0
    labelled: int = 0

    def count(self, prepared: PreparedGroup) -> None:
        """Add one group as it came: rewards before shaping, rollouts without an injected answer."""
        group = prepared.group
        if isinstance(group, SftGroup):
            self.sft_groups += 1
            self._count_labels(group.target, 1)
            return
        self.rl_groups += 1
        self.dead_groups += prepared.flat
        self.injected_groups += prepared.injected
        self.overlong += prepared.overlong
        self.unverified_groups += not group.verified
        self._count_rewards(group, prepared.flat)
        self._count_rollouts(group)
        if group.target is not None:
            self._count_labels(group.target, len(group.rollouts))

    def _count_rewards(self, group: RlGroup, flat: bool) -> None:
        scored = [reward for reward in group.rewards if reward is not None]
        self.unscored += len(group.rewards) - len(scored)
        self.rewards += scored
        if scored:
            mean = sum(scored) / len(scored)
            self.within_std.append(math.sqrt(sum((reward - mean) * (reward - mean) for reward in scored) / len(scored)))
        if flat:
            self.all_max_groups += bool(scored) and min(scored) >= 1.0
            self.all_min_groups += bool(scored) and max(scored) <= 0.0

    def _count_rollouts(self, group: RlGroup) -> None:
        self.rollouts += len(group.rollouts)
        self.truncated += sum(rollout.finish_reason is FinishReason.LENGTH for rollout in group.rollouts)
        self.decisions += sum(len(rollout.decisions) for rollout in group.rollouts)
        for rollout in group.rollouts:
            found = getattr(rollout.output, "objects", None)
            found = getattr(rollout.output, "points", None) if found is None else found
            if found is not None:
                self.objects += len(found)
                self.object_rollouts += 1

    def _count_labels(self, target: Target, times: int) -> None:
        """True objects, as often as there are attempts at them: beside the objects of the attempts."""
        truth = getattr(target, "boxes", None)
        truth = getattr(target, "points", None) if truth is None else truth
        if truth is not None:
            self.labels += times * len(truth)
            self.labelled += times
