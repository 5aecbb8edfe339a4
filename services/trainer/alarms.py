"""What a step's figures say is wrong, each with its likely cause."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from moontune.telemetry.names import TrainKey
from moontune.values.training import TrainSettings

Metrics = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Alarm:
    """name: stable, for searches in the log. key: the figure that raised it; value: what it was."""

    name: str
    key: TrainKey
    value: float
    likely_cause: str


@dataclass(frozen=True, slots=True)
class _Rule:
    name: str
    key: TrainKey
    raised: Callable[[float, Metrics, TrainSettings], bool]
    likely_cause: str


RULES = (
    _Rule(
        "dead_groups",
        TrainKey.DEAD_GROUP_SHARE,
        lambda share, metrics, _: share > 0.8 and metrics.get(TrainKey.N_GROUPS, 0.0) >= 4,
        "the task is too easy or too hard for the policy, or the reward cannot tell attempts apart",
    ),
    _Rule("no_scores", TrainKey.NO_SCORE_SHARE, lambda share, _, __: share > 0.25, "the reward fails: see its own log"),
    _Rule(
        "sampler_mismatch",
        TrainKey.MISMATCH_KL,
        lambda kl, _, __: kl > 0.05,
        "the sampler has another base or precision than the learner, or records were changed on the way",
    ),
    _Rule(
        "stale",
        TrainKey.STALE_GROUPS,
        lambda groups, _, __: groups > 0,
        "rollouts come from older steps than max_staleness_steps allows: fewer in flight, or a higher bound",
    ),
    _Rule(
        "truncated",
        TrainKey.TRUNCATED_SHARE,
        lambda share, _, __: share > 0.5,
        "max_tokens or max_objects is too small, or the policy no longer stops",
    ),
    _Rule(
        "gradient_spike",
        TrainKey.GRAD_NORM,
        lambda norm, _, settings: norm > 100 * settings.max_grad_norm,
        "the learning rate is too high, or rewards are of another scale than before",
    ),
    _Rule(
        "collapse",
        TrainKey.ENTROPY,
        lambda entropy, _, __: entropy < 0.01,
        "the policy no longer explores: lower the learning rate, or add entropy_weight or kl_weight",
    ),
)


def alarms(metrics: Metrics, settings: TrainSettings) -> tuple[Alarm, ...]:
    """The alarms of a step, by the figures that it reports; figures that it has not raise none."""
    return tuple(
        Alarm(rule.name, rule.key, metrics[rule.key], rule.likely_cause)
        for rule in RULES
        if rule.key in metrics and rule.raised(metrics[rule.key], metrics, settings)
    )
