"""What one optimiser step is given and what it reports."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from moontune.errors import InvalidField
from moontune.values.ground_truth import GroundTruth
from moontune.values.output import QueryOutput
from moontune.values.request import SkillRequest
from moontune.values.rollout import Head, Rollout

MAX_GROUPS = 256


class LossKind(StrEnum):
    """A policy-gradient loss; formula and paper are in `services/trainer/losses/`."""

    GRPO = "grpo"
    DR_GRPO = "dr_grpo"
    DAPO = "dapo"
    GSPO = "gspo"
    CISPO = "cispo"
    PPO = "ppo"
    REINFORCE = "reinforce"
    RLOO = "rloo"


class SamplerCorrection(StrEnum):
    """What is done about the gap between sampler and learner.

    off: nothing. token_truncate: weigh each decision by its own ratio, truncated from above. sequence_mask: mask whole
    rollouts by their mean log-ratio.
    """

    OFF = "off"
    TOKEN_TRUNCATE = "token_truncate"
    SEQUENCE_MASK = "sequence_mask"


class Aggregation(StrEnum):
    """How decisions are averaged within a skill.

    TOKEN_MEAN: over all decisions of the batch (DAPO). SEQUENCE_MEAN: over a rollout's decisions, then over the
    group's rollouts, then over groups (GRPO, GSPO). CONSTANT: sum over decisions over a constant length (Dr.GRPO).
    SEQUENCE_SUM: sum over a rollout's decisions, mean over rollouts and groups (RLOO: the rollout is one action).
    """

    TOKEN_MEAN = "token_mean"
    SEQUENCE_MEAN = "sequence_mean"
    CONSTANT = "constant"
    SEQUENCE_SUM = "sequence_sum"


class ObjectOrder(StrEnum):
    """In which order a supervised target's objects are taught.

    canonical: by x, then y, of the centre, the order of the base's own training. random: drawn anew at each step, which
    teaches that no order is better, at the price of noisier labels.
    """

    CANONICAL = "canonical"
    RANDOM = "random"


class OptimiserKind(StrEnum):
    """What turns gradients into changes of weights.

    adamw: two moments a number (Loshchilov and Hutter 2019, arXiv 1711.05101). sgd: one, with beta1 as momentum.
    adafactor: a row and a column of second moments a matrix (Shazeer and Stern 2018, arXiv 1804.04235).
    """

    ADAMW = "adamw"
    SGD = "sgd"
    ADAFACTOR = "adafactor"


@dataclass(frozen=True, slots=True)
class HeadWeight:
    """A weight for the decisions of one head."""

    head: Head
    weight: float


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Optimiser and loss parameters; they travel with each step.

    learning_rate: the optimiser's, 0..1. clip_low, clip_high: the ratio is clipped to [1 - clip_low, 1 + clip_high].
    kl_weight: of the KL to the base (adapter off), 0 is off. entropy_weight: of the entropy bonus, 0 is off.
    normalise_std: divide group advantages by the group's standard deviation.
    max_grad_norm: global gradient norm is clipped to this. weight_decay: decoupled, but SGD's, added to the gradient.
    mask_band: sequence_mask keeps rollouts whose exp(mean log-ratio) is in [1 / mask_band, mask_band].
    max_staleness_steps: groups from an older policy are dropped and counted.
    sft_weight: factor of the supervised groups' loss beside the RL one.
    passes: optimiser passes over the batch (more than 1 makes the clip act).
    dual_clip: PPO's bound c > 1 on what a decision of negative advantage can cost; None is off; other losses ignore it.
    aggregation: how decisions are averaged; None is the loss's own.
    entropy_heads: weights of single heads' entropy bonus, in entropy_weight's stead.
    mask_truncated: rollouts that a limit cut teach nothing; their rewards stay in the baseline (DAPO).
    overlong_positions: width of the zone below the request's max_tokens in which a rollout's reward falls linearly, by
        overlong_penalty at its end (DAPO's soft punishment); 0 is off.
    object_order: of supervised targets.
    ground_truth_reward: a group whose rewards are all equal and below this, and that carries its right answer, gets
        that answer as one more rollout with this reward; None is off.
    beta1: AdamW's first moment, SGD's momentum. beta2: AdamW's second moment.
    epsilon: AdamW's, added to the root of the second moment.
    optimiser: a step with another one than the step before starts its state anew.
    """

    loss: LossKind = LossKind.DAPO
    learning_rate: float = 2e-4
    clip_low: float = 0.2
    clip_high: float = 0.28
    kl_weight: float = 0.0
    entropy_weight: float = 0.0
    normalise_std: bool = False
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.95
    correction: SamplerCorrection = SamplerCorrection.SEQUENCE_MASK
    mask_band: float = 2.0
    max_staleness_steps: int = 8
    sft_weight: float = 1.0
    passes: int = 1
    dual_clip: float | None = None
    aggregation: Aggregation | None = None
    entropy_heads: tuple[HeadWeight, ...] = ()
    mask_truncated: bool = False
    overlong_positions: int = 0
    overlong_penalty: float = 1.0
    object_order: ObjectOrder = ObjectOrder.CANONICAL
    ground_truth_reward: float | None = None
    epsilon: float = 1e-8
    optimiser: OptimiserKind = OptimiserKind.ADAMW

    def entropy_weight_of(self, head: Head) -> float:
        """Weight of the entropy bonus over the decisions of a head."""
        return next((each.weight for each in self.entropy_heads if each.head is head), self.entropy_weight)

    def validate(self, field: str = "settings") -> None:
        """Raise InvalidField for the first value out of range."""
        for name, (low, high) in _RANGES.items():
            given = getattr(self, name)
            if given is not None:
                _check_range(f"{field}.{name}", float(given), low, high)
        heads = [each.head for each in self.entropy_heads]
        if len(set(heads)) != len(heads):
            raise InvalidField.of(f"{field}.entropy_heads", [str(head) for head in heads], "each head once")
        for index, each in enumerate(self.entropy_heads):
            _check_range(f"{field}.entropy_heads[{index}].weight", each.weight, *_RANGES["entropy_weight"])


_RANGES = {
    "learning_rate": (0.0, 1.0),
    "clip_low": (0.0, 1.0),
    "clip_high": (0.0, 10.0),
    "kl_weight": (0.0, 100.0),
    "entropy_weight": (0.0, 100.0),
    "max_grad_norm": (1e-6, 1e6),
    "weight_decay": (0.0, 1.0),
    "beta1": (0.0, 0.9999),
    "beta2": (0.0, 0.99999),
    "mask_band": (1.0, 1e4),
    "max_staleness_steps": (0, 10_000),
    "sft_weight": (0.0, 100.0),
    "passes": (1, 16),
    "dual_clip": (1.0, 1e4),
    "overlong_positions": (0, 2048),
    "overlong_penalty": (0.0, 1e6),
    "ground_truth_reward": (-1e9, 1e9),
    "epsilon": (1e-15, 1.0),
}
"""Least and most of every number of TrainSettings."""


def _check_range(field: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise InvalidField.of(field, value, f"{low} to {high}")


Target = QueryOutput | GroundTruth
"""A right answer: the output of a query, boxes or points of detect and point."""


@dataclass(frozen=True, slots=True)
class RlGroup:
    """One request, its rollouts and one reward each (None: no score).

    verified: the rollouts' recorded log-probabilities come from us (over HTTP: the record's HMAC held); when false
    they are recomputed at the current policy.
    target: the right answer, as in an SftGroup; for `ground_truth_reward` and for counts, None where it is not known.
    """

    request: SkillRequest
    rollouts: tuple[Rollout, ...]
    rewards: tuple[float | None, ...]
    verified: bool = True
    target: Target | None = None


@dataclass(frozen=True, slots=True)
class SftGroup:
    """One request and the right answer: `target` for query, `ground_truth` boxes or points for detect and point."""

    request: SkillRequest
    target: Target


Group = RlGroup | SftGroup


@dataclass(frozen=True, slots=True)
class TrainStep:
    """One step's order. expected_step: compare-and-set; None takes whatever the step is.

    groups: may be made anew each time they are iterated, from a file say; a call that is tried again iterates again.

    client_state: opaque bytes kept with the step and given back by a restore; None keeps the earlier ones.
    """

    finetune_id: str
    request_id: str
    groups: Collection[Group]
    settings: TrainSettings = field(default_factory=TrainSettings)
    expected_step: int | None = None
    client_state: bytes | None = None


@dataclass(frozen=True, slots=True)
class TrainStepResult:
    """What a step did.

    step: the finetune's step after the call. applied: false when nothing carried signal; `reason` says why.
    metrics: health figures by registered name (`moontune.telemetry.names`), all finite.
    replayed: this is the stored answer of an earlier call with the same request id.
    """

    step: int
    applied: bool
    adapter_digest: str
    reason: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    replayed: bool = False
