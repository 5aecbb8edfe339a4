"""Whether a job's reward can score its data set, asked before anything is made.

A wrong name, weight or parameter, or labels that the reward does not read, is a fault of the config; the error names
the config's key.
"""

from collections.abc import Mapping

from moontune.data.dataset import Dataset
from moontune.data.sample import Sample
from moontune.errors import FieldViolation, InvalidField, RewardNotFound
from moontune.evaluation import default_metric
from moontune.values.job import JobConfig
from moontune.values.output import DetectOutput, Output, PointOutput, QueryOutput
from moontune.values.reward_report import SampleGroup
from moontune.values.skill import Skill
from services.jobs.peers import Peers

TRIED = 16
"""Samples, spread over the set, that the reward is tried on."""
_SILENCE: Mapping[Skill, Output] = {
    Skill.DETECT: DetectOutput(()),
    Skill.POINT: PointOutput(()),
    Skill.QUERY: QueryOutput(""),
}


async def check_reward(peers: Peers, config: JobConfig, train: Dataset) -> None:
    """Try the reward on empty answers to a few samples.

    Raises:
        InvalidField, RewardNotFound: the reward is wrong, or does not fit the samples; with the config's keys.
    """
    stride = max(1, len(train) // TRIED)
    samples = [train[index] for index in range(0, len(train), stride)][:TRIED]
    for sample in samples:
        default_metric(sample.skill, sample.ground_truth)  # what cannot be judged on held-out samples is no job
    groups = [_unanswered(sample, config) for sample in samples]
    try:
        await peers.dry_run(config.reward, groups)
    except (InvalidField, RewardNotFound) as error:
        raise _in_config(error) from error


def _unanswered(sample: Sample, config: JobConfig) -> SampleGroup:
    """A sample with an empty answer: nothing is generated, and pictures are sent only if a judge asks for them."""
    return SampleGroup(sample.request(config.sampling), (_SILENCE[sample.skill],), sample.ground_truth, (0,))


def _in_config(error: InvalidField | RewardNotFound) -> InvalidField | RewardNotFound:
    """The same error with the paths of the config: what is wrong with a sample is that the reward does not fit it."""
    violations = [
        FieldViolation(_key(violation.field), violation.description.replace(violation.field, _key(violation.field)))
        for violation in error.violations
    ]
    message = "; ".join(violation.description for violation in violations) or f"config.reward: {error.message}"
    return type(error)(message, metadata=error.metadata, violations=violations)


def _key(field: str) -> str:
    return f"config.{field}" if field.startswith("reward") else f"config.reward (tried on config.train, {field})"
