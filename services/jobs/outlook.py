"""Before the first step: does reinforcement have anything to work with?"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from moontune.data.sample import Sample
from moontune.telemetry.names import JobKey, TrainKey
from moontune.values.job import JobConfig
from services.jobs.attempts import Attempts, attempt
from services.jobs.peers import Peers

PROMPTS = 32
"""Prompts that are tried, spread over the training set; they are not trained on."""

SCORING_TURN = 2**31
"""Goes into the seeds in place of a turn's number; no job has so many."""

FEW_MIXED = 0.3
LOW_PARSE_RATE = 0.8


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the untrained policy does on training prompts, at training temperature.

    parse_rate: share of attempts that read as an answer. mixed_share: share of groups whose rewards differ.
    """

    parse_rate: float
    reward_mean: float
    reward_std: float
    mixed_share: float
    n_rollouts: int

    @property
    def metrics(self) -> dict[str, float]:
        """By registered name."""
        return {
            JobKey.PARSE_RATE: self.parse_rate,
            TrainKey.REWARD_MEAN: self.reward_mean,
            TrainKey.REWARD_STD: self.reward_std,
            TrainKey.DEAD_GROUP_SHARE: 1.0 - self.mixed_share,
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
        if self.mixed_share < FEW_MIXED and self.reward_mean < 0.5:
            return (
                f"the base is right and wrong on the same prompt in only {self.mixed_share:.0%} of the groups, and "
                "mostly wrong: use easier prompts, a finer reward, or supervised examples first"
            )
        if self.mixed_share < FEW_MIXED:
            return f"only {self.mixed_share:.0%} of the groups are mixed: the base can mostly do this already"
        return f"{self.mixed_share:.0%} of the groups are mixed: there is something to learn from"


async def score_base(peers: Peers, config: JobConfig, model: str, samples: Sequence[Sample]) -> Outlook:
    """Try the policy on training samples before it is trained."""
    return outlook_of(await attempt(peers, config, model, samples, SCORING_TURN))


def outlook_of(attempts: Attempts) -> Outlook:
    """The figures of a batch of attempts."""
    rewards = attempts.rewards or [0.0]
    return Outlook(
        attempts.parse_rate,
        statistics.fmean(rewards),
        statistics.pstdev(rewards),
        attempts.mixed_share,
        sum(len(group.rollouts) for group in attempts.groups),
    )
