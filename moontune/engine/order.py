"""What the engine is asked to do. No torch here: front processes build orders and send them to their worker."""

import hashlib
from dataclasses import dataclass
from typing import Protocol

from moontune.errors import InvalidField
from moontune.values.inference import Usage
from moontune.values.model_ref import PolicyVersion
from moontune.values.request import SkillRequest
from moontune.values.rollout import RolloutGroup
from moontune.values.rollout_order import MAX_ROLLOUTS


@dataclass(frozen=True, slots=True)
class AdapterRef:
    """An adapter's files on this machine. digest: `sha256:<64 hex>` of their content. path: a PEFT folder."""

    digest: str
    path: str


@dataclass(frozen=True, slots=True)
class GenerationOrder:
    """One request to be answered `num_rollouts` times.

    request: its image carries bytes. seed: 0..2^64-1; with `rollout_seed` it fixes every draw, whatever else is in the
    batch. policy: reported with each rollout, as resolved by the caller. adapter: None runs the bare base.
    field, image_field: paths of `request` and of its image in what the caller sent, for errors.
    """

    request: SkillRequest
    num_rollouts: int
    seed: int
    policy: PolicyVersion
    adapter: AdapterRef | None = None
    field: str = "request"
    image_field: str = "request.images[0]"

    def validate(self) -> None:
        """Raise InvalidField for the first value out of range."""
        if not 1 <= self.num_rollouts <= MAX_ROLLOUTS:
            raise InvalidField.of("num_rollouts", self.num_rollouts, f"1 to {MAX_ROLLOUTS}")
        if not 0 <= self.seed < 2**64:
            raise InvalidField.of("seed", self.seed, "0 to 2^64 - 1")
        self.request.validate(self.field)


@dataclass(frozen=True, slots=True)
class Generation:
    """An order's answer. usage.output_tokens: decisions of all its rollouts."""

    group: RolloutGroup
    usage: Usage


class CallContext(Protocol):
    """The part of a worker's call context that the engine uses."""

    def cancelled(self) -> bool:
        """Whether the caller has left or its deadline has passed; asked at every decode step."""
        ...


def rollout_seed(seed: int, index: int) -> int:
    """Seed of the generator of rollout `index`: 63 bits of SHA-256 over both numbers, so that neighbours differ."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{index}".encode()).digest()[:8], "big") >> 1
