"""Before the first step: does reinforcement have anything to work with?"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from moontune.data.sample import Sample
from moontune.evaluation import default_metric
from moontune.telemetry.names import JobKey, TrainKey
from moontune.values.ground_truth import GroundTruth
from moontune.values.job import JobConfig
from services.jobs.attempts import Attempts, attempt
from services.jobs.peers import Peers

PROMPTS = 64
"""Prompts that are tried, spread over the training set; they are not trained on."""

SCORING_TURN = 2**31
"""Goes into the seeds in place of a turn's number; no job has so many."""

FEW_MIXED = 0.3
MANY_DEAD = 0.7
LOW_PARSE_RATE = 0.8


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the untrained policy does on training prompts, at training temperature.

    parse_rate: share of attempts that read as an answer. dead_share: share of groups whose rewards are all equal.
    mixed_share: share of groups with both right attempts and wrong ones, right being perfect by the evaluator's
    metric: a reward by degrees tells almost any two attempts apart, also where none is ever right.
    warnings: of the reward's dry run on the same attempts.
    """

    parse_rate: float
    reward_mean: float
    reward_std: float
    dead_share: float
    mixed_share: float
    n_rollouts: int
    warnings: tuple[str, ...] = ()

    @property
    def metrics(self) -> dict[str, float]:
        """By registered name."""
        return {
            JobKey.PARSE_RATE: self.parse_rate,
            TrainKey.REWARD_MEAN: self.reward_mean,
            TrainKey.REWARD_STD: self.reward_std,
            TrainKey.DEAD_GROUP_SHARE: self.dead_share,
            JobKey.MIXED_GROUP_SHARE: self.mixed_share,
            TrainKey.N_ROLLOUTS: float(self.n_rollouts),
        }

    @property
    def advice(self) -> str:
        """One sentence for a person."""
        if self.parse_rate < LOW_PARSE_RATE:
            return (
                f"only {self.parse_rate:.0%} of the base's attempts read as an answer: warm it up with supervised "
                "examples before reinforcement"
            )
        mixed = f"the base is right and wrong on the same prompt in {self.mixed_share:.0%} of the groups"
        if self.dead_share > MANY_DEAD:
            return f"{self.dead_share:.0%} of the groups are dead: take other prompts or a finer reward"
        if self.mixed_share < FEW_MIXED and self.reward_mean < 0.5:
            return f"{mixed}, mostly wrong: easier prompts or supervised examples first would help"
        if self.mixed_share < FEW_MIXED:
            return f"{mixed}, mostly right: there is little left to learn"
        return f"{mixed}: there is something to learn from"


async def score_base(peers: Peers, config: JobConfig, model: str, samples: Sequence[Sample]) -> Outlook:
    """Try the policy on training samples before it is trained."""
    attempts = await attempt(peers, config, model, samples, SCORING_TURN)
    truths = [sample.ground_truth for sample in samples]
    report = await peers.dry_run(config.reward, attempts.sample_groups(samples, config.sampling))
    return replace(outlook_of(attempts, truths), warnings=report.warnings)


def outlook_of(attempts: Attempts, truths: Sequence[GroundTruth]) -> Outlook:
    """The figures of a batch of attempts; `truths` has one for each group."""
    rewards = attempts.rewards or [0.0]
    return Outlook(
        attempts.parse_rate,
        statistics.fmean(rewards),
        statistics.pstdev(rewards),
        attempts.dead_share,
        _mixed_share(attempts, truths),
        sum(len(group.rollouts) for group in attempts.groups),
    )


def _mixed_share(attempts: Attempts, truths: Sequence[GroundTruth]) -> float:
    mixed = 0
    for group, truth in zip(attempts.groups, truths, strict=True):
        metric = default_metric(group.request.skill, truth)
        tallies = [metric.tally(rollout.output, truth) for rollout in group.rollouts]
        mixed += len({tally.numerator == tally.denominator for tally in tallies}) == 2
    return mixed / max(1, len(truths))
