"""What one optimiser step is given and what it reports."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from moontune.errors import InvalidField
from moontune.values.ground_truth import GroundTruth
from moontune.values.output import QueryOutput
from moontune.values.request import SkillRequest
from moontune.values.rollout import Rollout

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


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Optimiser and loss parameters; they travel with each step.

    learning_rate: AdamW's, 0..1. clip_low, clip_high: the ratio is clipped to [1 - clip_low, 1 + clip_high].
    kl_weight: of the KL to the base (adapter off), 0 is off. entropy_weight: of the entropy bonus, 0 is off.
    normalise_std: divide group advantages by the group's standard deviation.
    max_grad_norm: global gradient norm is clipped to this. weight_decay: AdamW's, decoupled.
    mask_band: sequence_mask keeps rollouts whose exp(mean log-ratio) is in [1 / mask_band, mask_band].
    max_staleness_steps: groups from an older policy are dropped and counted.
    sft_weight: factor of the supervised groups' loss beside the RL one.
    passes: optimiser passes over the batch (more than 1 makes the clip act).
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

    def validate(self, field: str = "settings") -> None:
        """Raise InvalidField for the first value out of range."""
        ranges = {
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
        }
        for name, (low, high) in ranges.items():
            value = float(getattr(self, name))
            if not (math.isfinite(value) and low <= value <= high):
                raise InvalidField.of(f"{field}.{name}", value, f"{low} to {high}")


@dataclass(frozen=True, slots=True)
class RlGroup:
    """One request, its rollouts and one reward each (None: no score).

    verified: the rollouts' recorded log-probabilities come from us (over HTTP: the record's HMAC held); when false
    they are recomputed at the current policy.
    """

    request: SkillRequest
    rollouts: tuple[Rollout, ...]
    rewards: tuple[float | None, ...]
    verified: bool = True


@dataclass(frozen=True, slots=True)
class SftGroup:
    """One request and the right answer: `target` for query, `ground_truth` boxes or points for detect and point."""

    request: SkillRequest
    target: QueryOutput | GroundTruth


Group = RlGroup | SftGroup


@dataclass(frozen=True, slots=True)
class TrainStep:
    """One step's order. expected_step: compare-and-set; None takes whatever the step is.

    client_state: opaque bytes kept with the step and given back by a restore; None keeps the earlier ones.
    """

    finetune_id: str
    request_id: str
    groups: tuple[Group, ...]
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
