"""A finetune: a named policy over one base, its adapter's shape, and its checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from moontune.errors import InvalidField

MAX_RANK = 256
MAX_CLIENT_STATE_BYTES = 64 * 1024


class FinetuneKind(StrEnum):
    """lora: deltas only. lora+region: full region-head tensors beside LoRA.

    full: every parameter of text and region, and of vision where it is among the targets; rank and alpha mean nothing.
    """

    LORA = "lora"
    LORA_REGION = "lora+region"
    FULL = "full"


class LoraTarget(StrEnum):
    """A named set of linear layers that an adapter may touch."""

    TEXT_ATTENTION = "text_attention"
    TEXT_MLP = "text_mlp"
    REGION = "region"
    VISION = "vision"


class AttentionWiring(StrEnum):
    """What the delta of an attention layer's output is computed from.

    ordinary: the output projection's own input, as in any LoRA. block_input: the block's normalised input, as in the
    "variant" files of Moondream's torch implementation; such a delta cannot be merged into the weights.
    """

    ORDINARY = "ordinary"
    BLOCK_INPUT = "block_input"


DEFAULT_TARGETS = (LoraTarget.TEXT_ATTENTION, LoraTarget.TEXT_MLP)


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """An adapter's shape.

    rank: 1..256. alpha: the delta is scaled by alpha / rank; None means 2 * rank (scale 2). seed: of A's init.
    wiring: of the attention output's delta, where text attention is a target.
    """

    rank: int = 8
    alpha: float | None = None
    targets: tuple[LoraTarget, ...] = DEFAULT_TARGETS
    seed: int = 0
    wiring: AttentionWiring = AttentionWiring.ORDINARY

    @property
    def scale(self) -> float:
        """Factor of B A x."""
        return (2.0 * self.rank if self.alpha is None else self.alpha) / self.rank

    def validate(self, field: str = "lora") -> None:
        """Raise InvalidField for a rank, alpha or target that is not allowed."""
        if not 1 <= self.rank <= MAX_RANK:
            raise InvalidField.of(f"{field}.rank", self.rank, f"1 to {MAX_RANK}")
        if self.alpha is not None and not 0.0 < self.alpha <= 4096.0:
            raise InvalidField.of(f"{field}.alpha", self.alpha, "more than 0 and at most 4096")
        if not self.targets or len(set(self.targets)) != len(self.targets):
            allowed = "one or more different ones of " + ", ".join(LoraTarget)
            raise InvalidField.of(f"{field}.targets", [str(target) for target in self.targets], allowed)


@dataclass(frozen=True, slots=True)
class Finetune:
    """A named policy. id is a ULID, base the base's name, step the number of its present step."""

    id: str
    name: str
    organisation: str
    base: str
    base_digest: str
    lora: LoraSettings
    step: int
    adapter_digest: str
    created_at: datetime
    updated_at: datetime
    kind: FinetuneKind = FinetuneKind.LORA


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A saved step: listed and servable. id is a ULID; size in bytes of all its files; None never expires."""

    id: str
    finetune_id: str
    step: int
    adapter_digest: str
    size_bytes: int
    created_at: datetime
    expires_at: datetime | None = None
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True)
class MetricPoint:
    """One logged number. name: letters, digits, `_`, `/` and `-`."""

    step: int
    name: str
    value: float
    logged_at: datetime


@dataclass(frozen=True, slots=True)
class BranchPoint:
    """A saved step of a finetune to start another one from."""

    finetune_id: str
    step: int


@dataclass(frozen=True, slots=True)
class NewFinetune:
    """What to create. base "" is the one that the process serves; branch_from None starts at the base."""

    request_id: str
    name: str
    base: str = ""
    lora: LoraSettings = field(default_factory=LoraSettings)
    kind: FinetuneKind = FinetuneKind.LORA
    branch_from: BranchPoint | None = None


@dataclass(frozen=True, slots=True)
class CheckpointRef:
    """Names a checkpoint of a finetune: by its saved step or, where that is None, by the checkpoint's id."""

    finetune_id: str
    step: int | None = None
    checkpoint_id: str = ""


@dataclass(frozen=True, slots=True)
class StepApplied:
    """A step was applied and can be rolled out from; metrics by registered name."""

    step: int
    adapter_digest: str
    applied_at: datetime
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])


FinetuneEvent = Finetune | StepApplied | Checkpoint | MetricPoint
"""What WatchFinetune tells: the present state, a step, a save, a caller's number."""
