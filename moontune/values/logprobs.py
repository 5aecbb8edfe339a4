"""Rollouts to be scored under a policy without training, and the scores."""

from dataclasses import dataclass

from moontune.values.model_ref import PolicyVersion
from moontune.values.request import SkillRequest
from moontune.values.rollout import Rollout


@dataclass(frozen=True, slots=True)
class RolloutBatch:
    """One request and rollouts of it."""

    request: SkillRequest
    rollouts: tuple[Rollout, ...]


@dataclass(frozen=True, slots=True)
class DecisionScore:
    """Natural log-probability of a decision's choice and entropy of its distribution, in nats, both float32."""

    logprob: float
    entropy: float


@dataclass(frozen=True, slots=True)
class LogprobResult:
    """Scores by rollout (batch after batch) and decision, and the weights that scored."""

    rollouts: tuple[tuple[DecisionScore, ...], ...]
    policy: PolicyVersion
