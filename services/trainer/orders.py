"""What the front process asks of the learner and what comes back. Torch-free; pickled over the worker's pipe.

Paths are of this machine: front and worker share the data folder.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from moontune.values.adapter import ExportKind, ImportKind
from moontune.values.finetune import Finetune, FinetuneKind, LoraSettings
from moontune.values.training import TrainSettings
from services.trainer.line import Line


@dataclass(frozen=True, slots=True)
class LearnerOptions:
    """Limits of the learner.

    micro_tokens: most positions (rows times the longest row) of one forward and backward pass; memory follows it.
    pass_bytes: bytes of activations of a pass, from which micro_tokens are told instead; 0 is off.
    recompute: drop activations in every pass, not only in one whose single row is longer than micro_tokens.
    finetune_bytes: for finetunes in memory with gradients and moments; 0 is half of the device's.
    live_finetunes: how many finetunes stay in memory with their optimiser state.
    image_cache_bytes: most bytes of image embeddings kept within a step.
    autocast: the body's matrix products in bf16, everything that is kept in fp32.
    shard_base: each of several ranks holds its part of the base; `device` is then where (None: the best there is).
    """

    micro_tokens: int = 4096
    live_finetunes: int = 4
    image_cache_bytes: int = 256 * 1024 * 1024
    pass_bytes: int = 0
    recompute: bool = False
    finetune_bytes: int = 0
    autocast: bool = False
    shard_base: bool = False
    device: str | None = None


@dataclass(frozen=True, slots=True)
class CreateOrder:
    """Write step 0 of a new finetune (its `step` and `adapter_digest` are not read) into `folder`.

    source: a PEFT folder with its weights; "" starts where the base is.
    """

    finetune: Finetune
    folder: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class ReadForm:
    """Turn the files in `folder`, of this form, into a PEFT folder at `into`. alpha: None takes the form's default."""

    kind: ImportKind
    folder: str
    alpha: float | None
    into: str


@dataclass(frozen=True, slots=True)
class FormRead:
    """What an import's files hold. inert: tensors that the form's own implementation never reads, left out."""

    lora: LoraSettings
    kind: FinetuneKind
    inert: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WriteForm:
    """Write the adapter of the PEFT folder `folder` in this form into the folder `into`."""

    kind: ExportKind
    folder: str
    into: str


@dataclass(frozen=True, slots=True)
class TrainOrder:
    """Apply one step.

    finetune: as it is now. line: the steps it came through. folder: of its present step. spool: of the groups. groups:
    how many. step: the new step's number; new_folder: where it is written; it appears whole or not at all.
    client_state: the caller's bytes; None keeps the earlier ones.
    """

    finetune: Finetune
    line: Line
    folder: str
    spool: str
    groups: int
    settings: TrainSettings
    step: int
    new_folder: str
    client_state: bytes | None = None


@dataclass(frozen=True, slots=True)
class WrittenStep:
    """A step folder on the disk."""

    adapter_digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What the learner did. written: None when nothing was applied, and `reason` says why. metrics: all finite."""

    written: WrittenStep | None
    reason: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True)
class ScoreOrder:
    """Score rollouts without training. finetune: None is the bare base; folder: of its present step, else ""."""

    finetune: Finetune | None
    folder: str
    spool: str
    groups: int
