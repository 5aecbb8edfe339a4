"""Held-out evaluation: greedy answers through the rollout service, judged by the one evaluator."""

import time
from dataclasses import dataclass

from moontune.data.dataset import Dataset
from moontune.data.predictions import Prediction, prediction_of
from moontune.evaluation import METRICS, default_metric, evaluate
from moontune.telemetry.names import JobKey
from moontune.values.ground_truth import GroundTruth
from moontune.values.job import JobConfig
from moontune.values.model_ref import PolicyVersion
from moontune.values.rollout import Rollout
from moontune.values.skill import Skill
from services.jobs.attempts import Attempts, attempt
from services.jobs.peers import Peers

AT_ONCE = 64
"""Images asked about at a time: enough to fill the engine's batch, few enough to hold in memory."""


@dataclass(frozen=True, slots=True)
class HeldOutScore:
    """The answers, in the data set's order, and every metric of the skill by name; `primary` is the one to show."""

    predictions: list[Prediction]
    values: dict[str, float]
    primary: str
    reward_mean: float
    seconds: float

    @property
    def metrics(self) -> dict[str, float]:
        """By registered name: `held_out` is the primary one."""
        named = {f"{JobKey.HELD_OUT}/{name}": value for name, value in self.values.items()}
        return {
            JobKey.HELD_OUT: self.values[self.primary],
            JobKey.HELD_OUT_REWARD: self.reward_mean,
            JobKey.EVALUATE_SECONDS: self.seconds,
            **named,
        }


async def evaluate_held_out(peers: Peers, config: JobConfig, model: str, held_out: Dataset) -> HeldOutScore:
    """Answer every held-out sample at temperature 0 and score the answers."""
    started = time.monotonic()
    predictions: list[Prediction] = []
    rewards: list[float] = []
    for numbers in batches(len(held_out), AT_ONCE):
        samples = [held_out[number] for number in numbers]
        attempts = await attempt(peers, config, model, samples, turn=0, greedy=True)
        rewards.extend(attempts.rewards)
        predictions.extend(
            prediction_of(sample, rollout.output, model_string(rollout.policy), rollout.policy.adapter_digest)
            for sample, rollout in zip(samples, _firsts(attempts), strict=True)
        )
    names = metric_names(config.skill, predictions[0].ground_truth)
    outputs = [prediction.output for prediction in predictions]
    truths = [prediction.ground_truth for prediction in predictions]
    values = {name: evaluate(METRICS[name], outputs, truths)[0] for name in names}
    reward_mean = sum(rewards) / max(1, len(rewards))
    return HeldOutScore(predictions, values, names[0], reward_mean, time.monotonic() - started)


def metric_names(skill: Skill, truth: GroundTruth) -> tuple[str, ...]:
    """The metrics of a skill, the primary one first; detect is also judged at IoU 0.75."""
    primary = default_metric(skill, truth).name
    return (primary, "f1_iou75") if skill is Skill.DETECT else (primary,)


def model_string(policy: PolicyVersion) -> str:
    """The model string of a policy version."""
    return f"{policy.base}/{policy.finetune_id}@{policy.step}" if policy.finetune_id else policy.base


def batches(size: int, most: int) -> list[range]:
    """0..size-1 in runs of at most `most`."""
    return [range(start, min(size, start + most)) for start in range(0, size, most)]


def _firsts(attempts: Attempts) -> list[Rollout]:
    return [group.rollouts[0] for group in attempts.groups]
