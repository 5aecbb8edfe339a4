"""Health figures of a step: sums while it runs, registered names at its end. All figures returned are finite."""

import math
import statistics
import time
from collections import defaultdict
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from moontune.telemetry.names import TrainKey, per_head
from moontune.values.rollout import Head
from services.trainer.losses.terms import MAX_LOG_RATIO
from services.trainer.tally import Tally


@dataclass(slots=True)
class HealthSums:
    """What ranks add up. sums, counts: of means. totals: of sums over the batch. max_ratio: the largest seen."""

    sums: dict[str, float] = field(default_factory=dict[str, float])
    counts: dict[str, int] = field(default_factory=dict[str, int])
    totals: dict[str, float] = field(default_factory=dict[str, float])
    max_ratio: float = 0.0


class StepHealth:
    """Collects what the passes over a step's batch see. `sums` is what other ranks may be told."""

    def __init__(self) -> None:
        self.sums = HealthSums()
        self._seconds: defaultdict[TrainKey, float] = defaultdict(float)
        self._put: dict[str, float] = {}

    @contextmanager
    def timed(self, phase: TrainKey) -> Generator[None]:
        """Add the seconds of the block to a phase."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[phase] += time.perf_counter() - started

    def mean(self, key: str, values_N: Tensor) -> None:
        """Add values to a mean."""
        if values_N.numel():
            sums, counts = self.sums.sums, self.sums.counts
            sums[key] = sums.get(key, 0.0) + float(values_N.detach().double().sum())
            counts[key] = counts.get(key, 0) + values_N.numel()

    def total(self, key: str, value: float) -> None:
        """Add to a sum."""
        self.sums.totals[key] = self.sums.totals.get(key, 0.0) + value

    def put(self, key: str, value: float) -> None:
        """Set a figure that every rank knows alike."""
        self._put[key] = value

    def merge(self, every: Sequence[HealthSums], own: int) -> None:
        """Add the sums of the other ranks to those of rank `own`, which are `sums` already."""
        for other in (each for rank, each in enumerate(every) if rank != own):
            for mine, theirs in (
                (self.sums.sums, other.sums),
                (self.sums.counts, other.counts),
                (self.sums.totals, other.totals),
            ):
                for key, value in theirs.items():
                    mine[key] = mine.get(key, 0) + value  # pyright: ignore[reportArgumentType]  (int to int)
            self.sums.max_ratio = max(self.sums.max_ratio, other.max_ratio)

    def by_head(self, name: str, values_N: Tensor, heads: Sequence[Head]) -> None:
        """Add values to their overall mean and to the mean of each head; `heads` has one entry a value."""
        self.mean(name, values_N)
        for head in set(heads):
            at = torch.tensor([index for index, other in enumerate(heads) if other is head], device=values_N.device)
            self.mean(per_head(name, head), values_N.detach()[at])

    def mismatch(self, old_N: Tensor, recorded_N: Tensor) -> None:
        """Add what sampler and learner disagree by, over verified decisions.

        KL(mu || pi_old) by k3 over samples of mu: e^u - 1 - u with u = log pi_old - log mu; and the largest ratio.
        """
        if old_N.numel():
            u_N = (old_N - recorded_N).detach().clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
            self.mean(TrainKey.MISMATCH_KL, u_N.expm1() - u_N)
            self.sums.max_ratio = max(self.sums.max_ratio, float(u_N.max().exp()))

    def figures(self, tally: Tally) -> dict[str, float]:
        """Everything by registered name; figures that do not apply to this step are left out."""
        found = {str(key): value / self.sums.counts[key] for key, value in self.sums.sums.items()}
        found |= {str(key): value for key, value in (self.sums.totals | self._put).items()}
        found |= {str(phase): seconds for phase, seconds in self._seconds.items()}
        if self.sums.max_ratio:
            found[TrainKey.MAX_RATIO] = self.sums.max_ratio
        found |= batch_figures(tally)
        return {name: float(value) for name, value in found.items() if math.isfinite(value)}


def batch_figures(tally: Tally) -> dict[str, float]:
    """What is known of a step's groups before any forward pass."""
    found: dict[str, float] = {
        TrainKey.N_GROUPS: tally.rl_groups,
        TrainKey.N_SFT_GROUPS: tally.sft_groups,
        TrainKey.N_ROLLOUTS: tally.rollouts,
        TrainKey.N_DECISIONS: tally.decisions,
        TrainKey.STALE_GROUPS: tally.stale_groups,
        TrainKey.UNVERIFIED_GROUPS: tally.unverified_groups,
        TrainKey.INJECTED_GROUPS: tally.injected_groups,
    }
    if tally.rl_groups:
        found[TrainKey.DEAD_GROUP_SHARE] = tally.dead_groups / tally.rl_groups
        found[TrainKey.ALL_MAX_SHARE] = tally.all_max_groups / tally.rl_groups
        found[TrainKey.ALL_MIN_SHARE] = tally.all_min_groups / tally.rl_groups
    if tally.rollouts:
        found[TrainKey.NO_SCORE_SHARE] = tally.unscored / tally.rollouts
        found[TrainKey.TRUNCATED_SHARE] = tally.truncated / tally.rollouts
        found[TrainKey.OVERLONG_SHARE] = tally.overlong / tally.rollouts
        found[TrainKey.DECISIONS_MEAN] = tally.decisions / tally.rollouts
    if tally.rewards:
        found[TrainKey.REWARD_MEAN] = statistics.fmean(tally.rewards)
        # Within groups, averaged: the spread that training can use; the spread between prompts is not.
        found[TrainKey.REWARD_STD] = statistics.fmean(tally.within_std)
    if tally.advantages:
        found[TrainKey.ADVANTAGE_STD] = statistics.pstdev(tally.advantages)
    if tally.lags:
        found[TrainKey.STALENESS_MEAN] = statistics.fmean(tally.lags)
        found[TrainKey.STALENESS_MAX] = max(tally.lags)
    if tally.object_rollouts:
        found[TrainKey.N_PRED] = tally.objects / tally.object_rollouts
    if tally.labelled:
        found[TrainKey.N_GT] = tally.labels / tally.labelled
    return found
