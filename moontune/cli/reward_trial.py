"""A dry run of a reward from the command line: samples, answers to them, and the report."""

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moontune.clients.reward import RewardClient
from moontune.clients.rollout import RolloutClient
from moontune.data.dataset import import_dataset
from moontune.data.job_file import read_job_file, read_reward_file
from moontune.data.predictions import Prediction, read_predictions
from moontune.data.reward_file import is_reward_code, read_reward_code
from moontune.data.sample import Sample
from moontune.errors import InvalidField
from moontune.values.image import Image
from moontune.values.job import DatasetSource
from moontune.values.request import SkillRequest
from moontune.values.reward import RewardComponent, RewardSpec
from moontune.values.reward_definition import RewardDefinition
from moontune.values.reward_report import RewardReport, SampleGroup
from moontune.values.rollout_order import RolloutOrder
from moontune.values.sampling import SamplingSettings, rollout_defaults
from moontune.values.skill import Skill


@dataclass(frozen=True, slots=True)
class TrialOptions:
    """What the command was told.

    reward: a name, a file with code or components, or a job's config. limit: samples. code_range: least and largest
    result of code.
    """

    reward: str
    samples: Path | None
    answers: Path | None
    skill: Skill
    object: str
    model: str
    rollouts: int
    limit: int
    code_range: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        """Raise InvalidField unless answers come from one place: the policy, asked the samples, or a file."""
        file = Path(self.reward)
        has_own_samples = bool(file.suffix) and not is_reward_code(file)  # a job's config
        given = (self.samples is not None) + (self.answers is not None)
        if given == 2 or (given == 0 and not has_own_samples):
            allowed = "--samples (answered by the current policy) or --answers, one of them"
            raise InvalidField.of("samples", str(self.samples) if self.samples else None, allowed)


@dataclass(frozen=True, slots=True)
class Answered:
    """Groups to grade, with the picture of each."""

    candidate: RewardSpec | RewardDefinition
    groups: tuple[SampleGroup, ...]
    pictures: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """What was graded and what came out."""

    asked: Answered
    report: RewardReport


async def answered(client: RewardClient, asked: Answered) -> Trial:
    """The report of the reward service."""
    return Trial(asked, await client.validate(asked.candidate, asked.groups))


def from_answers(options: TrialOptions) -> Answered:
    """Answers in a file, those to one question about one image together."""
    assert options.answers is not None, "the command asks for --answers first"
    if not options.answers.is_file():
        raise InvalidField.of("answers", str(options.answers), "a predictions .jsonl that exists")
    try:
        predictions = read_predictions(options.answers)
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidField.of("answers", str(options.answers), f"a job's predictions .jsonl ({error!r})") from error
    grouped: dict[tuple[str, str], list[Prediction]] = {}
    for prediction in predictions:
        grouped.setdefault((prediction.sha256, prediction.asked), []).append(prediction)
    chosen = _spread(list(grouped.values()), options.limit)
    groups = [
        SampleGroup(_request(group[0]), tuple(one.output for one in group), group[0].ground_truth) for group in chosen
    ]
    return Answered(_candidate(options, groups), tuple(groups), tuple(group[0].image for group in chosen))


async def generated(policy: RolloutClient, options: TrialOptions) -> Answered:
    """Answers of the current policy to labelled samples."""
    source, skill, settings = _source(options)
    with tempfile.TemporaryDirectory() as folder:
        dataset = import_dataset(source, skill, Path(folder) / "samples.jsonl")
        stride = max(1, len(dataset) // options.limit)
        samples = [dataset[index] for index in range(0, len(dataset), stride)][: options.limit]
    model = options.model or (await policy.engine_status()).base
    groups = await asyncio.gather(
        *(_attempt(policy, model, sample, settings, options.rollouts, seed) for seed, sample in enumerate(samples))
    )
    return Answered(_candidate(options, groups), tuple(groups), tuple(sample.image for sample in samples))


async def _attempt(
    policy: RolloutClient, model: str, sample: Sample, settings: SamplingSettings, count: int, seed: int
) -> SampleGroup:
    request = sample.request(settings)
    made = await policy.generate(RolloutOrder(model, request, count, seed))
    outputs = tuple(rollout.output for rollout in made.rollouts)
    tokens = tuple(len(rollout.decisions) for rollout in made.rollouts)
    return SampleGroup(request, outputs, sample.ground_truth, tokens)


def _candidate(options: TrialOptions, groups: Sequence[SampleGroup]) -> RewardSpec | RewardDefinition:
    file = Path(options.reward)
    if is_reward_code(file):
        skills = sorted({group.request.skill for group in groups})
        return read_reward_code(file, skills, *options.code_range)
    return read_reward_file(file) if file.suffix else RewardSpec((RewardComponent(options.reward),))


def _source(options: TrialOptions) -> tuple[DatasetSource, Skill, SamplingSettings]:
    """Of the options, or of a job's config in place of the reward."""
    if options.samples is not None:
        source = DatasetSource(str(options.samples), options.object)
        return source, options.skill, rollout_defaults(options.skill)
    config = read_job_file(Path(options.reward))
    return config.train, config.skill, config.sampling


def _request(prediction: Prediction) -> SkillRequest:
    query = prediction.skill is Skill.QUERY
    return SkillRequest(
        prediction.skill,
        _image(prediction),
        question=prediction.asked if query else "",
        object="" if query else prediction.asked,
    )


def _image(prediction: Prediction) -> Image:
    """With its bytes, which only a judge that sees asks for, where the file is still there and the same."""
    try:
        image = Image.of(prediction.image.read_bytes())
    except OSError:
        return Image(prediction.sha256)
    return image if image.sha256 == prediction.sha256 else Image(prediction.sha256)


def _spread(groups: Sequence[list[Prediction]], limit: int) -> list[list[Prediction]]:
    return list(groups[:: max(1, len(groups) // limit)][:limit])
