"""The demo's figures, all by the one evaluator."""

from collections.abc import Sequence
from dataclasses import dataclass

from examples.demo.served import Answer, same
from examples.demo.training import Trained
from moontune.data.predictions import Prediction
from moontune.evaluation import METRICS, Interval, Tally, evaluate, paired_difference
from moontune.telemetry.names import JobKey, TrainKey
from moontune.values.output import Output

DIFFERENT_SHARE = 0.2
"""A served finetune must answer otherwise than the base on more than this share of the images."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric before and after training on the same images, and the difference with its 95 % interval."""

    metric: str
    base: float
    final: float
    difference: Interval


@dataclass(frozen=True, slots=True)
class Served:
    """What the gateway answered after a restart without the trainer.

    equal_images: answers equal to those recorded in training, of `images`. digest_holds: all came from the
    checkpoint's weights. different_images: those that differ from the base's. base_known_words: the base's score when
    asked in the words it was taught; None where it was.
    """

    model: str
    adapter_digest: str
    images: int
    equal_images: int
    digest_holds: bool
    different_images: int
    base_known_words: float | None = None

    @property
    def equals_trained(self) -> bool:
        """Every answer is the recorded one, from the right weights."""
        return self.digest_holds and self.equal_images == self.images

    @property
    def differs_from_base(self) -> bool:
        """More than a fifth of the answers are not the base's."""
        return self.different_images > DIFFERENT_SHARE * self.images


def compare(trained: Trained, metric: str) -> Comparison:
    """A metric of the held-out answers before the first step and after the last."""
    base, before = _evaluated(metric, trained.before)
    final, after = _evaluated(metric, trained.after)
    return Comparison(metric, base, final, paired_difference(before, after))


def per_image(metric: str, prediction: Prediction) -> float:
    """One image's own score, 0..1; 1 where there is nothing to find and nothing was said."""
    return _evaluated(metric, [prediction])[0]


def served_scores(trained: Trained, answers: Sequence[Answer], base: Sequence[Output]) -> Served:
    """Hold the gateway's answers against the recorded ones and against the base's."""
    digest = trained.after[0].adapter_digest
    recorded = [prediction.output for prediction in trained.after]
    return Served(
        model=trained.job.model,
        adapter_digest=digest,
        images=len(recorded),
        equal_images=sum(same(a.output, b) for a, b in zip(answers, recorded, strict=True)),
        digest_holds=all(answer.adapter_digest == digest for answer in answers),
        different_images=sum(not same(a.output, b) for a, b in zip(answers, base, strict=True)),
    )


def job_figures(trained: Trained) -> dict[str, float]:
    """Rollouts made, seconds worked, and what the base did on training prompts."""
    results, outlook = trained.job.results, trained.outlook.metrics
    return {
        "steps": trained.job.step,
        "rollouts": int(results[TrainKey.N_ROLLOUTS]),
        "seconds": round(results[JobKey.SECONDS], 1),
        "mixed_group_share_before": outlook[JobKey.MIXED_GROUP_SHARE],
        "dead_group_share_before": outlook[TrainKey.DEAD_GROUP_SHARE],
        "parse_rate_before": outlook[JobKey.PARSE_RATE],
        "reward_mean_before": round(outlook[TrainKey.REWARD_MEAN], 4),
    }


def score_of(metric: str, answers: Sequence[Answer], asked: Sequence[Prediction]) -> float:
    """A metric of the gateway's answers to the images of `asked`."""
    outputs = [answer.output for answer in answers]
    return evaluate(METRICS[metric], outputs, [prediction.ground_truth for prediction in asked])[0]


def _evaluated(metric: str, predictions: Sequence[Prediction]) -> tuple[float, list[Tally]]:
    outputs = [prediction.output for prediction in predictions]
    return evaluate(METRICS[metric], outputs, [prediction.ground_truth for prediction in predictions])
